"""Parameters that depend on the time: a smooth step from one learned vector to another (DiMR).

Symbols: B batch, D width.
"""

from __future__ import annotations

from functools import cache
from typing import Literal

from latentc.ir.builder import BlockBody, Builder, Var, f32, module_class


def timed(b: Builder, name: str, t: Var, dim: int, init: Literal["ones", "zeros"]) -> Var:
    """A vector of `dim` numbers that starts as `init`, at time t f32[B, 1]: f32[B, 1, D]."""
    return b.sub(name, _timed(init), t, dim=dim, out=name)  # type: ignore[no-any-return]


@cache
def _timed(init: str) -> BlockBody:
    @module_class("TimedScale" if init == "ones" else "TimedShift")
    def forward(b: Builder, t: Var, *, dim: int) -> Var:
        """A vector that goes from `early` to `late` as t grows, each number at its own time and rate."""
        late, early = b.param("late", f32(dim), init), b.param("early", f32(dim), init)
        rate, shift = b.param("rate", f32(dim), "zeros"), b.param("shift", f32(dim), "zeros")
        t = b.reshape(t, shape=(t.shape[0], 1, 1), out="t")
        step = b.sigmoid(t * (rate + 1.0) + shift, out="step")
        return early + step * (late - early)

    return forward


__all__ = ["timed"]
