"""How blocks call their mixer on the tokens that a mask shows or on a chunk behind a cache, and networks such blocks.

Symbols: B batch, N tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from latentc.components.decoding import Chunk
from latentc.components.parts import CachedMixer
from latentc.ir.builder import BlockBody, Builder, Var

Mix = Callable[[Var], tuple[Var, ...]]
"""h f32[B, N, D] -> what the mixer makes of it, one summand per branch that is gated by itself."""


def apart(b: Builder, x: Var, front: Any, layer: Callable[[Var, str], Var], out: str = "h", axis: int = 1) -> Var:
    """What a layer makes of x, whose first `front` tokens along an axis have one of their own.

    `layer` takes tokens, and what the names of its parameters begin with.
    """
    if not front:
        return layer(x, "")
    first, rest = b.split(x, axis=axis, sizes=(front, x.shape[axis] - front), out="first rest")
    return b.concat(layer(first, "front_"), layer(rest, ""), axis=axis, out=out)  # type: ignore[no-any-return]


def masked_mix(
    b: Builder, mixer: CachedMixer, mask: Var, rotary: Sequence[Var], init: str, dim: int, static: Mapping[str, Any]
) -> Mix:
    """The mixer on tokens that see those where `mask` is true; `static` are the sizes of the block."""
    return lambda h: (mixer.apply(b, "attn", h, tuple(rotary), init, mask, dim=dim, **mixer.own(dim, static)),)


def chunk_mix(
    b: Builder,
    mixer: CachedMixer,
    cache: tuple[Var, ...],
    others: Sequence[Var],
    masked: bool,
    init: str,
    dim: int,
    static: Mapping[str, Any],
    plain: bool = False,
) -> tuple[Mix, list[Var]]:
    """The mixer on a chunk, and the list that gets its grown cache; `others` are the mask and the rotary tables."""
    chunk, rotary = Chunk(cache, others[0] if masked else None, plain), tuple(others[masked:])
    grown: list[Var] = []

    def mix(h: Var) -> tuple[Var, ...]:
        h, keys, values = mixer.extend(b, "attn", h, chunk, rotary, init, dim=dim, **mixer.own(dim, static))
        grown.extend((keys, values))
        return (h,)

    return mix, grown


def cached_blocks(
    b: Builder,
    base: str,
    block: BlockBody,
    count: int,
    x: Var,
    caches: Sequence[Var],
    told: Sequence[Var] = (),
    others: Sequence[Var] = (),
    out: str = "x",
    **sizes: Any,
) -> tuple[Var, list[Var]]:
    """x f32[B, N, D] through blocks `BASE.0`, `BASE.1`, …, and the grown caches: keys and values of each block in turn.

    A block takes x, what it is `told`, its keys and values, if there are any yet, and `others`.
    """
    grown: list[Var] = []
    for i in range(count):
        operands = (x, *told, *caches[2 * i : 2 * i + 2], *others)
        x, keys, values = b.sub(f"{base}.{i}", block, *operands, out=f"{out} keys values", **sizes)
        grown += [keys, values]
    return x, grown


__all__ = ["Mix", "apart", "cached_blocks", "chunk_mix", "masked_mix"]
