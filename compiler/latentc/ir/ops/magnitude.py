"""Sums, concatenations and activations that preserve magnitudes (Karras et al. 2024, arXiv:2312.02696).

Operands of unit mean square give results of unit mean square. They are names for a few simpler ops.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from latentc.ir.ops.elementwise import OPS as ELEMENTWISE
from latentc.ir.ops.row import Array, Attrs, Infer, Op, floats, need
from latentc.ir.ops.shape import OPS as SHAPE
from latentc.ir.types import TensorType

SILU = 0.596
"""The root mean square of SiLU of a standard normal."""


def _silu(xs: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    (y,) = ELEMENTWISE["silu"].evaluate(xs, {})  # type: ignore[misc]
    return [np.asarray(y / SILU, dtype=xs[0].dtype)]


def _shares(balance: float) -> tuple[float, float]:
    """Factors of two operands whose shares are 1 - balance and balance."""
    length = math.hypot(1 - balance, balance)
    return (1 - balance) / length, balance / length


def _balanced(of: Op) -> Infer:
    """The type rule of another op of two floats, with a balance."""

    def infer(ins: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
        need(ins[0].is_float and 0 <= attrs["balance"] <= 1, "takes floats and a balance from 0 to 1, got {}", ins[0])
        return of.infer(ins, attrs)

    return infer


def _sum(xs: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    first, second = map(xs[0].dtype.type, _shares(attrs["balance"]))
    return [np.asarray(xs[0] * first + xs[1] * second)]


def _sum_decompose(b: Any, ins: Any, attrs: Attrs) -> Sequence[Any]:
    first, second = _shares(attrs["balance"])
    return [ins[0] * first + ins[1] * second]


def _concat_factors(operands: Sequence[Any], attrs: Attrs) -> tuple[float, float]:
    """Factors of the two operands: of as much magnitude as their shares, whatever their sizes."""
    sizes = [int(v.shape[attrs["axis"]]) for v in operands]
    first, second = (
        share * math.sqrt(sum(sizes) / size) for share, size in zip(_shares(attrs["balance"]), sizes, strict=True)
    )
    return first, second


def _concat(xs: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    first, second = map(xs[0].dtype.type, _concat_factors(xs, attrs))
    return [np.concatenate([xs[0] * first, xs[1] * second], attrs["axis"])]


def _concat_decompose(b: Any, ins: Any, attrs: Attrs) -> Sequence[Any]:
    first, second = _concat_factors(ins, attrs)
    return [b.concat(ins[0] * first, ins[1] * second, axis=attrs["axis"])]


_ROWS = [
    Op(
        "mp_silu(x)",
        "SiLU over its root mean square, 0.596, for a standard normal",
        floats,
        _silu,
        flops=5,
        decompose=lambda b, ins, attrs: [b.silu(ins[0]) / SILU],
        source="Karras et al. 2024, equation 81",
        sugar=True,
    ),
    Op(
        "mp_sum(x, y; balance)",
        "((1 - balance) x + balance y) / sqrt((1 - balance)^2 + balance^2)",
        _balanced(ELEMENTWISE["add"]),
        _sum,
        flops=3,
        decompose=_sum_decompose,
        source="Karras et al. 2024, equation 88",
        sugar=True,
    ),
    Op(
        "mp_concat(x, y; axis, balance)",
        "x beside y, weighted so that their magnitudes have the shares 1 - balance and balance, whatever their sizes",
        _balanced(SHAPE["concat"]),
        _concat,
        flops=2,
        decompose=_concat_decompose,
        source="Karras et al. 2024, equation 103",
        sugar=True,
    ),
]
OPS = {row.name: row for row in _ROWS}
