"""What mixers are given, beside tokens, to decode one or several with a cache of those before.

Symbols: B batch, T tokens, N tokens at once, S tokens in the cache, D width, H heads, H_kv heads of keys and values.
"""

from __future__ import annotations

from dataclasses import dataclass

from latentc.ir.builder import Var


@dataclass(frozen=True)
class DecodeState:
    """Inputs of a mixer's decoding step: the token's position, the mask of visible positions, the caches."""

    position: Var  # i64[]
    mask: Var  # bool[1 or B, 1, 1, T], true where a position is visible
    keys: Var  # f32[B, H_kv, T, D / H]
    values: Var
    temperature: Var | None = None  # f32[B], divides the scores
    plain: bool = True  # true if the block's other methods take no mask


@dataclass(frozen=True)
class Chunk:
    """What several tokens x [B, N, D] in a row are decoded with: the cache of the S before them, if there are any.

    `cache`: keys and values f32[B, H_kv, S, D / H] each; `mask` bool[B or 1, 1, N or 1, S + N], true for those seen;
    None: all. `plain`: the other methods of the block take no mask.
    """

    cache: tuple[Var, ...] = ()
    mask: Var | None = None
    plain: bool = False


__all__ = ["Chunk", "DecodeState"]
