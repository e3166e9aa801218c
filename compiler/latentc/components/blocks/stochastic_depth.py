"""Stochastic depth (Huang et al. 2016, arXiv:1603.09382): in training, samples skip residual branches now and then.

A block that drops its branches takes the probability after x, so that blocks at different depths are one function.

Symbols: B batch, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from latentc.ir.builder import BlockBody, Builder, Var

DropPath = Annotated[float, Field(ge=0, lt=1)]
"""A probability with which a sample skips a residual branch in training; the others are scaled by 1 / (1 - p)."""

_RATE = "drop_path_rate"  # static argument from which block bodies read the probability


def growing_rates(b: Builder, largest: float, count: int, lag: int = 0) -> list[tuple[Var, ...]]:
    """Operands of `count` branches after x: probabilities from 0 to `largest` that grow linearly with depth.

    The first `lag` are 0 as well. Nothing is taken if `largest` is 0.
    """
    if not largest:
        return [()] * int(count)
    grown = int(count) - lag
    rates = b.constant(largest * np.arange(grown) / max(grown - 1, 1), "f32", out="rates")
    if lag:
        rates = b.pad(rates, axis=0, before=lag, after=0, value=0.0, out="rates")
    return [(rate,) for rate in b.unbind(rates, axis=0, out=" ".join(["rate"] * int(count)))]


@cache
def dropping(block: BlockBody) -> BlockBody:
    """The same method of a block that takes the probability of skipping a branch after x."""
    return _Dropping(block)


class _Dropping(BlockBody):
    """The method `block` with a further operand; the others keep their names."""

    def __init__(self, block: BlockBody) -> None:
        def body(b: Builder, x: Var, rate: Var, *operands: Var, **static: Any) -> Any:
            return block.body(b, x, *operands, **static, **{_RATE: rate})

        body.__doc__ = block.body.__doc__
        super().__init__(body, block.cls, block.method, block.shapes)
        self._block = block

    def operands(self, count: int, names: Sequence[str]) -> list[str]:
        x, *others = self._block.operands(count - 1, [*names[:1], *names[2:]])
        return [x, "rate", *others]


def dropped(b: Builder, branch: Var, static: Mapping[str, Any]) -> Var:
    """A residual branch f32[B, ...] of a block, which samples skip if the block is one of `dropping`."""
    rate = static.get(_RATE)
    return branch if rate is None else b.drop_path(branch, rate, out="h")
