"""Mixture of experts: each token is routed to some of the feed-forwards.

Symbols: N tokens (of whatever leading shape), D width, E experts, F hidden width of an expert.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from latentc.ir.ops.elementwise import OPS as ELEMENTWISE
from latentc.ir.ops.row import Array, Attrs, Infer, Op, check_momentum, need, shaped
from latentc.ir.types import TensorType


@dataclass(frozen=True)
class Expert:
    """A form of feed-forward: the op of all experts, that of one, and what an expert computes.

    `shapes` are those of one expert's weights in D and F, two for the matrix of a linear layer; `run` is its meaning in
    numpy, `build` in the IR; `kept` counts the rows of F that training keeps per token.
    """

    all: str
    one: str
    weights: tuple[str, ...]
    shapes: tuple[str, ...]
    run: Callable[..., Array]
    build: Callable[..., Any]
    kept: int

    def shaped(self, *operands: str, stacked: str = "") -> Infer:
        """The type rule for these operands and then the weights, of all experts if they are `stacked`."""
        weights = zip(self.weights, self.shapes, strict=True)
        return shaped(*operands, *(f"{name} [{', '.join([*stacked, *axes])}]" for name, axes in weights))

    def flops(self, x: TensorType, hidden: Any) -> int:
        """Operations of `hidden` rows of F for each token of x."""
        return int(2 * sum(len(axes) == 2 for axes in self.shapes) * x.count() * hidden)

    def evaluate_one(self, xs: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
        onto, x, gate, *weights = xs
        tokens, weight = x.reshape(-1, x.shape[-1]), gate.reshape(-1, 1)
        rows = np.flatnonzero(weight)
        out = onto.reshape(tokens.shape).copy()
        out[rows] += weight[rows] * self.run(tokens[rows], *weights)
        return [out.reshape(x.shape).astype(x.dtype, copy=False)]

    def evaluate(self, xs: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
        x, gates, *stacks = xs
        out = np.zeros_like(x)
        for e, weights in enumerate(zip(*stacks, strict=True)):
            (out,) = self.evaluate_one((out, x, gates[..., e : e + 1], *weights), {})
        return [out]

    def dense(self, b: Any, x: Any, gates: Any, weights: Sequence[Sequence[Any]]) -> Any:
        """Runs every expert on every token, with most gates zero; `weights` has those of each expert."""
        out = None
        for e, each in enumerate(weights):
            y = self.build(b, x, *each)
            y = b.slice(gates, axis=gates.type.rank - 1, start=e, stop=e + 1) * y
            out = y if out is None else out + y
        return out

    def sparse(self, b: Any, x: Any, gates: Any, weights: Sequence[Sequence[Any]]) -> Any:
        """Runs each expert on the tokens whose gate is not zero; `weights` has those of each expert."""
        out = b.fill_like(x, 0.0)
        for e, each in enumerate(weights):
            gate = b.slice(gates, axis=gates.type.rank - 1, start=e, stop=e + 1)
            out = b.op(self.one, out, x, gate, *each)
        return out

    def decompose(self, b: Any, ins: Any, attrs: Attrs) -> Sequence[Any]:
        x, gates, *stacks = ins
        each = zip(*(b.unbind(w, axis=0) for w in stacks), strict=True)
        return [self.dense(b, x, gates, list(each))]


def _silu(x: Array) -> Array:
    return ELEMENTWISE["silu"].evaluate([x], {})[0]  # type: ignore[misc]


def _gelu(x: Array) -> Array:
    return ELEMENTWISE["gelu"].evaluate([x], {"approximate": "tanh"})[0]  # type: ignore[misc]


SWIGLU = Expert(
    "experts",
    "expert",
    ("w1", "w3", "w2"),
    ("FD", "FD", "DF"),
    lambda x, w1, w3, w2: _silu(x @ w1.T) * (x @ w3.T) @ w2.T,
    lambda b, x, w1, w3, w2: b.linear(b.silu(b.linear(x, w1)) * b.linear(x, w3), w2),
    kept=4,
)
GELU = Expert(
    "gelu_experts",
    "gelu_expert",
    ("w1", "b1", "w2", "b2"),
    ("FD", "F", "DF", "D"),
    lambda x, w1, b1, w2, b2: _gelu(x @ w1.T + b1) @ w2.T + b2,
    lambda b, x, w1, b1, w2, b2: b.linear(b.gelu(b.linear(x, w1, b1), approximate="tanh"), w2, b2),
    kept=2,
)
EXPERTS = {form.all: form for form in (SWIGLU, GELU)}
"""The forms by the name of the op that holds all experts."""


def _rows(form: Expert, formula: str, formula_one: str, source: str) -> list[Op]:
    words = ", ".join(form.weights)
    rule = form.shaped("x [N, *n, D]", "gates [N, *n, E]", stacked="E")

    def infer(ins: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
        found, experts = rule(ins, attrs), int(ins[1].shape[-1])  # type: ignore[arg-type]
        need(0 < attrs["per_token"] <= experts, "{} of {} experts", attrs["per_token"], experts)
        return found

    return [
        Op(
            f"{form.all}(x, gates, {words}; per_token)",
            f"sum over experts e of gates[..., e] * {formula}; on average `per_token` gates per token are not zero",
            infer,
            form.evaluate,
            None,
            lambda ins, outs, attrs: form.flops(ins[0], attrs["per_token"] * ins[2].shape[1]),
            form.decompose,
            source=source,
        ),
        Op(
            f"{form.one}(onto, x, gate, {words})",
            f"onto + gate * {formula_one}, to be computed only for tokens with a gate; flops count all tokens",
            form.shaped("onto [N, *n, D]", "x [N, *n, D]", "gate [N, *n, 1]"),
            form.evaluate_one,
            None,
            lambda ins, outs, attrs: form.flops(ins[1], ins[3].shape[0]),
            lambda b, ins, attrs: [ins[0] + ins[2] * form.build(b, ins[1], *ins[3:])],
            engine_only=True,
        ),
    ]


# ---- experts that choose among the tokens of the batch


_choice_shapes = shaped(
    "scores [N, *n, E]", "chances [N, *n, E]", "threshold [E]", "capacity [*one]", checks=(check_momentum,)
)


def _choice_infer(ins: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    found = _choice_shapes(ins, attrs)
    need(ins[3].shape in ((), (1,)), "the capacity is {}; wants one number", ins[3])
    return found


def _best(scores: Array, counts: Array) -> Array:
    """The `counts[e]` best of scores [N, E] for each expert, 0 elsewhere."""
    order = np.argsort(-scores, axis=0, kind="stable")
    ranks = np.argsort(order, axis=0, kind="stable")
    return np.asarray(np.where(ranks < counts, scores, 0), dtype=scores.dtype)


def _choice(xs: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    scores, chances, threshold, _ = xs
    experts = scores.shape[-1]
    counts = (chances.reshape(-1, experts) > threshold).sum(0)
    return [_best(scores.reshape(-1, experts), counts).reshape(scores.shape)]


def _choice_train(xs: Sequence[Array], attrs: Attrs) -> tuple[Sequence[Array], dict[int, Array]]:
    scores, chances, threshold, capacity = xs
    experts = scores.shape[-1]
    flat, likely = scores.reshape(-1, experts), chances.reshape(-1, experts)
    count = max(1, int(len(flat) / experts * capacity.item()))
    last = -np.sort(-likely, axis=0)[count - 1]
    moved = threshold * attrs["momentum"] + (1 - attrs["momentum"]) * last
    return [_best(flat, np.full(experts, count)).reshape(scores.shape)], {2: moved}


def _choice_decompose(b: Any, ins: Any, attrs: Attrs) -> Sequence[Any]:
    """Ranks by comparing all pairs of tokens: no sort of a run-time size, at N^2 comparisons per expert."""
    scores, chances, threshold, _ = ins
    experts, tokens = scores.shape[-1], 1
    for size in scores.shape[:-1]:
        tokens = size * tokens
    flat = b.transpose(b.reshape(scores, shape=(tokens, experts)), perm=(1, 0))
    place = b.cumsum(b.fill_like(flat, 1.0), axis=1)
    row, column = (experts, 1, tokens), (experts, tokens, 1)
    mine, other = b.reshape(flat, shape=column), b.reshape(flat, shape=row)
    before = b.logical_and(b.equal(other, mine), b.less(b.reshape(place, shape=row), b.reshape(place, shape=column)))
    ahead = b.cast(b.logical_or(b.less(mine, other), before), to=scores.type.dtype)
    rank = b.sum(ahead, axes=(2,), keepdims=False)
    counts = b.cast(b.less(threshold, b.reshape(chances, shape=(tokens, experts))), to=scores.type.dtype)
    counts = b.reshape(b.sum(counts, axes=(0,), keepdims=False), shape=(experts, 1))
    gates = b.where(b.less(rank, counts), flat, 0.0)
    return [b.reshape(b.transpose(gates, perm=(1, 0)), shape=scores.shape)]


_ROWS = [
    *_rows(
        SWIGLU,
        "w2[e](silu(w1[e] x) * w3[e] x), w1 and w3 [E, F, D], w2 [E, D, F]",
        "w2(silu(w1 x) * w3 x)",
        "Shazeer et al. 2017, arXiv:1701.06538; Dai et al. 2024, arXiv:2401.06066",
    ),
    *_rows(
        GELU,
        "(w2[e] gelu(w1[e] x + b1[e]) + b2[e]), w1 [E, F, D], w2 [E, D, F], GELU by tanh",
        "(w2 gelu(w1 x + b1) + b2)",
        "Shazeer et al. 2017, arXiv:1701.06538; Shi et al. 2025, arXiv:2503.14487",
    ),
    Op(
        "pool_choice(scores, chances, threshold, capacity; momentum)",
        "gates [..., E] of experts that choose among all tokens, whatever sample they are of: each expert keeps the "
        "scores of as many of its best tokens as have a chance above its threshold [E]; the others are 0. In training "
        "it keeps capacity / E of all tokens, and the threshold moves towards the least chance of as many by the "
        "fraction 1 - momentum",
        _choice_infer,
        _choice,
        lambda b, ins, outs, grads, attrs: [b.where(b.equal(outs[0], 0.0), 0.0, grads[0]), None, None, None],
        flops=8,
        decompose=_choice_decompose,
        source="Shi et al. 2025, arXiv:2503.14487",
        train=_choice_train,
    ),
]
OPS = {row.name: row for row in _ROWS}
