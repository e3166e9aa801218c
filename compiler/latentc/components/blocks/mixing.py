"""Layers that treat leading tokens separately, and calls of blocks with a cache.

Symbols: B batch, N tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from latentc.ir.builder import BlockBody, Builder, Var


def apart(b: Builder, x: Var, front: Any, layer: Callable[[Var, str], Var], out: str = "h", axis: int = 1) -> Var:
    """A layer of x whose first `front` tokens along an axis have weights of their own.

    `layer` takes tokens and the prefix of its parameters' names.
    """
    if not front:
        return layer(x, "")
    first, rest = b.split(x, axis=axis, sizes=(front, x.shape[axis] - front), out="first rest")
    return b.concat(layer(first, "front_"), layer(rest, ""), axis=axis, out=out)


def cached_blocks(
    b: Builder,
    base: str,
    block: BlockBody,
    count: int,
    x: Var,
    caches: Sequence[Var],
    first: Sequence[Var] = (),
    others: Sequence[Var] = (),
    out: str = "x",
    **sizes: Any,
) -> tuple[Var, list[Var]]:
    """x f32[B, N, D] through blocks `BASE.0`, `BASE.1`, …, and the grown caches: keys and values of each block in turn.

    The operands of a block are x, `first`, its keys and values, if there are any yet, and `others`.
    """
    grown: list[Var] = []
    for i in range(count):
        operands = (x, *first, *caches[2 * i : 2 * i + 2], *others)
        x, keys, values = b.sub(f"{base}.{i}", block, *operands, out=f"{out} keys values", **sizes)
        grown += [keys, values]
    return x, grown
