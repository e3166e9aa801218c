"""Ops that keep count of what happens in training, in buffers that inference does not read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from latentc.ir.ops.row import Array, Attrs, Op, need
from latentc.ir.types import TensorType


def _passes_infer(ins: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    need(ins[0].is_float and ins[0].shape == (1,), f"takes a float [1], got {ins[0]}")
    return [ins[0]]


def _noted_infer(ins: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    value, history, counts, index = ins
    need(value.is_float and value.rank == 1, f"takes floats [B], got {value}")
    need(history.rank == 1 and history.is_float, f"the history is {history}; wants floats [S]")
    need(counts == history, f"the counts are {counts}; wants {history}")
    need(index.shape == value.shape and index.dtype == "i64", f"the index is {index}; wants i64 like {value}")
    need(0 <= attrs["momentum"] <= 1, "momentum lies between 0 and 1")
    return [value]


def _noted_train(xs: Sequence[Array], attrs: Attrs) -> tuple[Sequence[Array], Mapping[int, Array]]:
    value, history, counts, index = xs
    moved, counted = history.copy(), counts.copy()
    moved[index] = attrs["momentum"] * history[index] + (1 - attrs["momentum"]) * value**2
    np.add.at(counted, index, 1)
    return [value], {1: moved, 2: counted}


def _noted_vjp(b: Any, ins: Any, outs: Any, grads: Any, attrs: Attrs) -> Sequence[Any]:
    return [grads[0], None, None, None]


def _mean_infer(ins: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    x, mean = ins
    need(x.is_float, f"takes floats, got {x}")
    need(mean.shape == (1,) and mean.dtype == x.dtype, f"the mean is {mean}; wants {x.dtype}[1]")
    need(0 <= attrs["momentum"] <= 1, "momentum lies between 0 and 1")
    return [mean]


def _mean_train(xs: Sequence[Array], attrs: Attrs) -> tuple[Sequence[Array], Mapping[int, Array]]:
    x, mean = xs
    return [mean], {1: attrs["momentum"] * mean + (1 - attrs["momentum"]) * x.mean()}


def _drop_path_infer(ins: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    x, rate = ins
    need(x.is_float and x.rank > 0, f"takes floats [B, ...], got {x}")
    need(rate.is_float and rate.rank == 0, f"the rate is {rate}; wants a scalar")
    return [x]


_ROWS = [
    Op(
        "drop_path(x, rate)",
        "in training, zeroes each sample of x [B, ...] with probability `rate` and scales the others by 1 / (1 - rate)",
        _drop_path_infer,
        flops=0,
        source="stochastic depth: Huang et al. 2016, arXiv:1603.09382",
        train_only=True,
        differentiable=False,
    ),
    Op(
        "training_passes(count; otherwise)",
        "how often the network has run in training: `count` [1], which each of these runs then raises by 1; in "
        "inference the number `otherwise`",
        _passes_infer,
        lambda xs, attrs: [np.full_like(xs[0], attrs["otherwise"])],
        flops=0,
        decompose=lambda b, ins, attrs: [b.fill_like(ins[0], attrs["otherwise"])],
        train=lambda xs, attrs: ([xs[0]], {0: xs[0] + 1}),
        differentiable=False,
    ),
    Op(
        "noted(x, history, counts, index; momentum)",
        "x [B]; in training the history [S] moves at each index [B] towards the square of x, by the fraction "
        "1 - momentum, and the counts [S] there rise by 1",
        _noted_infer,
        lambda xs, attrs: [xs[0]],
        _noted_vjp,
        flops=0,
        decompose=lambda b, ins, attrs: [ins[0]],
        source="Nichol & Dhariwal 2021, section 3.3; Gu et al. 2022, arXiv:2111.14822",
        train=_noted_train,
    ),
    Op(
        "running_mean(x, mean; momentum)",
        "the mean [1] of earlier x; in training it then moves towards that of x by the fraction 1 - momentum",
        _mean_infer,
        lambda xs, attrs: [xs[1]],
        lambda b, ins, outs, grads, attrs: [None, grads[0]],
        flops=0,
        decompose=lambda b, ins, attrs: [ins[1]],
        source="Tseng et al. 2021, arXiv:2104.03310",
        train=_mean_train,
    ),
]
OPS = {row.name: row for row in _ROWS}
