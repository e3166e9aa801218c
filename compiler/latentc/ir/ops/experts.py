"""Mixture of experts: each token is routed to some of the feed-forwards.

Symbols: N tokens (of whatever leading shape), D width, E experts, F hidden width of an expert.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from latentc.ir.ops.linear import same_dtype
from latentc.ir.ops.row import Array, Attrs, Op, need
from latentc.ir.types import TensorType


def _infer(ins: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    x, gates, w1, w3, w2 = ins
    need(x.rank >= 2 and gates.shape[:-1] == x.shape[:-1], f"gates {gates} do not line up with tokens {x}")
    need(w1.rank == 3 and w1.shape[::2] == (gates.shape[-1], x.shape[-1]), f"w1 is {w1}; wants [E, F, {x.shape[-1]}]")
    need(w3.shape == w1.shape, f"w3 is {w3}; wants the type of w1, {w1}")
    need(w2.shape == (w1.shape[0], x.shape[-1], w1.shape[1]), f"w2 is {w2}; wants [E, {x.shape[-1]}, {w1.shape[1]}]")
    need(0 < attrs["per_token"] <= int(w1.shape[0]), f"{attrs['per_token']} of {w1.shape[0]} experts")  # type: ignore
    same_dtype(ins)
    return [x]


def _evaluate(xs: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    x, gates, *stacks = xs
    out = np.zeros_like(x)
    for e, weights in enumerate(zip(*stacks, strict=True)):
        (out,) = _expert((out, x, gates[..., e : e + 1], *weights), {})
    return [out]


def _expert_infer(ins: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    onto, x, gate, w1, w3, w2 = ins
    need(x.rank >= 2 and onto.shape == x.shape, f"{onto} and {x} differ")
    need(gate.shape == (*x.shape[:-1], 1), f"gate is {gate}; wants one for each token of {x}")
    need(w1.rank == 2 and w1.shape[1] == x.shape[-1] and w3.shape == w1.shape, f"w1 {w1}, w3 {w3} do not take {x}")
    need(w2.shape == (x.shape[-1], w1.shape[0]), f"w2 is {w2}; wants [{x.shape[-1]}, {w1.shape[0]}]")
    same_dtype(ins)
    return [x]


def _expert(xs: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    onto, x, gate, w1, w3, w2 = xs
    tokens, weight = x.reshape(-1, x.shape[-1]), gate.reshape(-1, 1)
    rows = np.flatnonzero(weight)
    h = tokens[rows] @ w1.T
    h = h / (1 + np.exp(-h)) * (tokens[rows] @ w3.T)
    out = onto.reshape(tokens.shape).copy()
    out[rows] += weight[rows] * (h @ w2.T)
    return [out.reshape(x.shape).astype(x.dtype, copy=False)]


def _expert_decompose(b: Any, ins: Any, attrs: Attrs) -> Sequence[Any]:
    onto, x, gate, w1, w3, w2 = ins
    return [onto + gate * b.linear(b.silu(b.linear(x, w1)) * b.linear(x, w3), w2)]


def _expert_flops(ins: Sequence[TensorType], outs: Sequence[TensorType], attrs: Attrs) -> int:
    return 6 * ins[1].count() * int(ins[3].shape[0])  # type: ignore[arg-type]


def dense_experts(b: Any, x: Any, gates: Any, weights: Sequence[Sequence[Any]]) -> Any:
    """Runs every expert on every token, with most gates zero; `weights` has (w1, w3, w2) per expert."""
    out = None
    for e, (w1, w3, w2) in enumerate(weights):
        y = b.linear(b.silu(b.linear(x, w1)) * b.linear(x, w3), w2)
        y = b.slice(gates, axis=gates.type.rank - 1, start=e, stop=e + 1) * y
        out = y if out is None else out + y
    return out


def sparse_experts(b: Any, x: Any, gates: Any, weights: Sequence[Sequence[Any]]) -> Any:
    """Runs each expert on the tokens whose gate is not zero; `weights` has (w1, w3, w2) per expert."""
    out = b.fill_like(x, 0.0)
    for e, each in enumerate(weights):
        out = b.expert(out, x, b.slice(gates, axis=gates.type.rank - 1, start=e, stop=e + 1), *each)
    return out


def _decompose(b: Any, ins: Any, attrs: Attrs) -> Sequence[Any]:
    x, gates, *stacks = ins
    return [dense_experts(b, x, gates, list(zip(*(b.unbind(w, axis=0) for w in stacks), strict=True)))]


def _flops(ins: Sequence[TensorType], outs: Sequence[TensorType], attrs: Attrs) -> int:
    return 6 * ins[0].count() * int(attrs["per_token"]) * int(ins[2].shape[1])  # type: ignore[arg-type]


_ROWS = [
    Op(
        "experts(x, gates, w1, w3, w2; per_token)",
        "sum over experts e of gates[..., e] * w2[e](silu(w1[e] x) * w3[e] x), w1 and w3 [E, F, D], w2 [E, D, F]; "
        "`per_token` gates per token are not zero",
        _infer,
        _evaluate,
        None,
        _flops,
        _decompose,
        source="Shazeer et al. 2017, arXiv:1701.06538; Dai et al. 2024, arXiv:2401.06066",
    ),
    Op(
        "expert(onto, x, gate, w1, w3, w2)",
        "onto + gate * w2(silu(w1 x) * w3 x), to be computed only for tokens with a gate; flops count all tokens",
        _expert_infer,
        _expert,
        None,
        _expert_flops,
        _expert_decompose,
        engine_only=True,
    ),
]
OPS = {row.name: row for row in _ROWS}
