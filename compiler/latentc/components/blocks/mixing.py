"""How blocks call their mixer: on all tokens, on those that a mask shows, or on a chunk of tokens behind a cache.

Symbols: B batch, N tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from latentc.components.parts import Chunk, Mixer
from latentc.ir.builder import Builder, Var

Mix = Callable[[Var], tuple[Var, ...]]
"""h f32[B, N, D] -> what the mixer makes of it, one summand per branch that is gated by itself."""


def masked_mix(b: Builder, mixer: Mixer, mask: Var, rotary: Sequence[Var], init: str, sizes: Mapping[str, Any]) -> Mix:
    """The mixer on tokens that see those where `mask` is true."""
    return lambda h: (mixer.apply(b, "attn", h, tuple(rotary), init, mask, **sizes),)


def chunk_mix(
    b: Builder,
    mixer: Mixer,
    cache: tuple[Var, ...],
    others: Sequence[Var],
    masked: bool,
    init: str,
    sizes: Mapping[str, Any],
    plain: bool = False,
) -> tuple[Mix, list[Var]]:
    """The mixer on a chunk, and the list that gets its grown cache; `others` are the mask and the rotary tables."""
    chunk, rotary = Chunk(cache, others[0] if masked else None, plain), tuple(others[masked:])
    grown: list[Var] = []

    def mix(h: Var) -> tuple[Var, ...]:
        h, keys, values = mixer.extend(b, "attn", h, chunk, rotary, init, **sizes)
        grown.extend((keys, values))
        return (h,)

    return mix, grown


__all__ = ["Mix", "chunk_mix", "masked_mix"]
