"""Ops that keep count of what happens in training, in buffers that inference does not read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from latentc.ir.ops.row import Array, Attrs, Op, check_momentum, need, shaped
from latentc.ir.types import Sym, TensorType, product


def _noted_train(xs: Sequence[Array], attrs: Attrs) -> tuple[Sequence[Array], Mapping[int, Array]]:
    value, history, counts, index = xs
    moved, counted = history.copy(), counts.copy()
    moved[index] = attrs["momentum"] * history[index] + (1 - attrs["momentum"]) * value**2
    np.add.at(counted, index, 1)
    return [value], {1: moved, 2: counted}


_mean_shapes = shaped("x [*n]", "mean [*mean]", gives="[*mean]", checks=(check_momentum,))


def _mean_infer(ins: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    (x, mean), found = ins, _mean_shapes(ins, attrs)
    need(mean.shape in ((1,), x.shape[1:]), "the mean is {}; wants the shape of x without its batch, or [1]", mean)
    return found


def _mean_train(xs: Sequence[Array], attrs: Attrs) -> tuple[Sequence[Array], Mapping[int, Array]]:
    x, mean = xs
    of_all = mean.shape == (1,)
    return [mean], {1: attrs["momentum"] * mean + (1 - attrs["momentum"]) * (x.mean() if of_all else x.mean(0))}


def _exchanged(xs: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    x, memory, place = xs
    there = (place >= 0).reshape(-1, *[1] * (x.ndim - 1))
    return [np.where(there, memory[np.maximum(place, 0)], x)]


def _exchanged_train(xs: Sequence[Array], attrs: Attrs) -> tuple[Sequence[Array], Mapping[int, Array]]:
    found, kept = xs[0].copy(), xs[1].copy()
    for row, at in enumerate(xs[2]):
        if at >= 0:
            found[row], kept[at] = kept[at], xs[0][row]
    return [found], {1: kept}


def _is_exchanged(b: Any, x: Any, place: Any) -> Any:
    """bool[B, 1, ...]: whether a row has a place."""
    return b.reshape(b.greater(place, -1), shape=(x.shape[0], *(1,) * (x.type.rank - 1)))


def _exchanged_decompose(b: Any, ins: Any, attrs: Attrs) -> Sequence[Any]:
    x, memory, place = ins
    return [b.where(_is_exchanged(b, x, place), b.take(memory, b.maximum(place, 0), axis=0), x)]


def _exchanged_vjp(b: Any, ins: Any, outs: Any, grads: Any, attrs: Attrs) -> Sequence[Any]:
    (x, memory, place), (grad,) = ins, grads
    there, none = _is_exchanged(b, x, place), b.fill_like(grad, 0.0)
    of_memory = b.scatter_add(b.fill_like(memory, 0.0), b.maximum(place, 0), b.where(there, grad, none), axis=0)
    return [b.where(there, none, grad), of_memory, None]


def _set_train(xs: Sequence[Array], attrs: Attrs) -> tuple[Sequence[Array], Mapping[int, Array]]:
    kept = xs[0] if xs[2][0] else xs[1]
    return [kept], {0: kept}


def _check_extra(attrs: Attrs) -> None:
    need(attrs.get("extra", 1.0) > 0, "the number of further dimensions is positive")


def _check_noise(attrs: Attrs) -> None:
    need(
        attrs["mode"] in ("normal", "gumbel", "relative"), "noise is normal, gumbel or relative, not {}", attrs["mode"]
    )
    need(attrs["scale"] > 0, "the scale of noise, {}, is not positive", attrs["scale"])


def _posterior_mean(xs: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    x, data = (v.reshape(len(v), -1) for v in xs[:2])
    scaled = ((x[:, None] - data[None]) ** 2).sum(-1) / xs[2][:, None] ** 2
    extra = attrs.get("extra")
    logits = -scaled / 2 if extra is None else -(x.shape[1] + extra) / 2 * np.log1p(scaled / extra)
    if len(xs) > 3:
        logits = np.where(xs[3][: len(x), None] == xs[3][None], logits, -np.inf)
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    mean = (weights / weights.sum(axis=1, keepdims=True)) @ data
    return [mean.reshape(xs[0].shape).astype(xs[0].dtype)]


def _posterior_decompose(b: Any, ins: Any, attrs: Attrs) -> Sequence[Any]:
    shape, extra = ins[0].shape, attrs.get("extra")
    batch, every = ins[0].shape[0], ins[1].shape[0]
    size: Any = product(shape[1:])
    x, data = (b.reshape(v, shape=(v.shape[0], size)) for v in ins[:2])
    own = b.sum(x * x, axes=(1,), keepdims=True) - 2.0 * b.matmul(x, b.transpose(data, perm=(1, 0)))
    theirs = b.reshape(b.sum(data * data, axes=(1,), keepdims=False), shape=(1, every))
    level = b.reshape(ins[2], shape=(batch, 1))
    scaled = b.maximum(own + theirs, 0.0) / (level * level)
    logits = scaled * -0.5 if extra is None else b.log(scaled / extra + 1.0) * (-(int(size) + extra) / 2)
    if len(ins) > 3:
        own = ins[3] if batch == every else b.split(ins[3], axis=0, sizes=(batch, _difference(every, batch)))[0]
        same = b.equal(b.reshape(own, shape=(batch, 1)), b.reshape(ins[3], shape=(1, every)))
        logits = b.where(same, logits, b.scalar(-1e30, logits))
    return [b.reshape(b.matmul(b.softmax(logits, axis=1), data), shape=shape)]


def _difference(every: Any, batch: Any) -> Any:
    """every - batch, of numbers or of multiples of one run-time size."""
    return Sym(every.name, every.factor - batch.factor) if isinstance(every, Sym) else every - batch


_ROWS = [
    Op(
        "posterior_mean(x, data, level, group?; extra?)",
        "mean of data [N, ...] for each of x [B, ...], weighted by how likely noise of that level [B] leads to x: "
        "normal, or that of a Poisson flow in `extra` further dimensions; data of another group [N] does not count, "
        "where x has the groups of the first B",
        shaped("x [B, C, *space]", "data [N, C, *space]", "level [B]", "i64 group [N]", checks=(_check_extra,)),
        _posterior_mean,
        flops=lambda ins, outs, attrs: 4 * ins[0].count(),
        decompose=_posterior_decompose,
        source="stable target fields: Xu et al. 2023, arXiv:2302.00670; Xu et al. 2023, arXiv:2302.04265",
    ),
    Op(
        "drop_path(x, rate)",
        "in training, zeroes each sample of x [B, ...] with probability `rate` and scales the others by 1 / (1 - rate)",
        shaped("x [B, *n]", "rate []"),
        flops=0,
        source="stochastic depth: Huang et al. 2016, arXiv:1603.09382",
        train_only=True,
        differentiable=False,
    ),
    Op(
        "training_noise(x; mode, scale)",
        "x; in training plus `scale` times standard noise, if `mode` is normal or gumbel, or, if it is relative, times "
        "uniform numbers between 1 - `scale` and 1 + `scale`",
        shaped("x [*n]", checks=(_check_noise,)),
        flops=0,
        source="Shazeer et al. 2017, arXiv:1701.06538; Riquelme et al. 2021, arXiv:2106.05974; Fedus et al. 2021, "
        "arXiv:2101.03961",
        train_only=True,
        differentiable=False,
    ),
    Op(
        "training_passes(count; otherwise)",
        "how often the network has run in training: `count` [1], which each of these runs then raises by 1; in "
        "inference the number `otherwise`",
        shaped("count [1]"),
        lambda xs, attrs: [np.full_like(xs[0], attrs["otherwise"])],
        flops=0,
        decompose=lambda b, ins, attrs: [b.fill_like(ins[0], attrs["otherwise"])],
        train=lambda xs, attrs: ([xs[0]], {0: xs[0] + 1}),
        differentiable=False,
    ),
    Op(
        "set_from_data(weight, value, passes)",
        "a weight, which the pass of training in which `passes` [1] is 0 first overwrites with `value`",
        shaped("weight [*n]", "value [*n]", "passes [1]"),
        lambda xs, attrs: [xs[0]],
        lambda b, ins, outs, grads, attrs: [grads[0], None, None],
        flops=0,
        decompose=lambda b, ins, attrs: [ins[0]],
        source="data-dependent starts: Salimans & Kingma 2016, arXiv:1602.07868; Kingma & Dhariwal 2018, "
        "arXiv:1807.03039",
        train=_set_train,
    ),
    Op(
        "noted(x, history, counts, index; momentum)",
        "x [B]; in training the history [S] moves at each index [B] towards the square of x, by the fraction "
        "1 - momentum, and the counts [S] there rise by 1",
        shaped("x [B]", "history [S]", "counts [S]", "i64 index [B]", checks=(check_momentum,)),
        lambda xs, attrs: [xs[0]],
        lambda b, ins, outs, grads, attrs: [grads[0], None, None, None],
        flops=0,
        decompose=lambda b, ins, attrs: [ins[0]],
        source="Nichol & Dhariwal 2021, section 3.3; Gu et al. 2022, arXiv:2111.14822",
        train=_noted_train,
    ),
    Op(
        "exchanged(x, memory, place)",
        "rows of memory [N, ...] at places [B], and rows of x [B, ...] at places below 0; in training each row of x is "
        "then stored at its place, one after another",
        shaped("x [B, *n]", "memory [N, *n]", "i64 place [B]"),
        _exchanged,
        _exchanged_vjp,
        flops=0,
        decompose=_exchanged_decompose,
        source="past samples: Shrivastava et al. 2017, arXiv:1612.07828, section 2.3",
        train=_exchanged_train,
    ),
    Op(
        "running_mean(x, mean; momentum)",
        "the mean [1] of earlier x [B, ...], or [...], that over the batch; in training it then moves towards that of "
        "x by the fraction 1 - momentum",
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
