"""Routed experts: which feed-forwards a token goes through depends on the token.

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
    need(w3.shape == w1.shape, f"w3 is {w3}, w1 {w1}: they go side by side")
    need(w2.shape == (w1.shape[0], x.shape[-1], w1.shape[1]), f"w2 is {w2}; wants [E, {x.shape[-1]}, {w1.shape[1]}]")
    need(0 < attrs["per_token"] <= int(w1.shape[0]), f"{attrs['per_token']} of {w1.shape[0]} experts")  # type: ignore
    same_dtype(ins)
    return [x]


def _evaluate(xs: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    x, gates, w1, w3, w2 = xs
    tokens, shares = x.reshape(-1, x.shape[-1]), gates.reshape(-1, gates.shape[-1])
    out = np.zeros_like(tokens)
    for e in range(len(w1)):
        (rows,) = np.nonzero(shares[:, e])
        h = tokens[rows] @ w1[e].T
        h = h / (1 + np.exp(-h)) * (tokens[rows] @ w3[e].T)
        out[rows] += shares[rows, e, None] * (h @ w2[e].T)
    return [out.reshape(x.shape).astype(x.dtype, copy=False)]


def dense_experts(b: Any, x: Any, gates: Any, weights: Sequence[Sequence[Any]]) -> Any:
    """Every expert for every token, most with gate zero: exact, of a fixed shape; `weights` (w1, w3, w2) an expert."""
    out = None
    for e, (w1, w3, w2) in enumerate(weights):
        y = b.linear(b.silu(b.linear(x, w1)) * b.linear(x, w3), w2)
        y = b.slice(gates, axis=gates.type.rank - 1, start=e, stop=e + 1) * y
        out = y if out is None else out + y
    return out


def _decompose(b: Any, ins: Any, attrs: Attrs) -> Sequence[Any]:
    x, gates, *stacks = ins
    return [dense_experts(b, x, gates, list(zip(*(b.unbind(w, axis=0) for w in stacks), strict=True)))]


def _flops(ins: Sequence[TensorType], outs: Sequence[TensorType], attrs: Attrs) -> int:
    return 6 * ins[0].count() * int(attrs["per_token"]) * int(ins[2].shape[1])  # type: ignore[arg-type]


_ROWS = [
    Op(
        "experts",
        "sum over experts e of gates[..., e] * w2[e](silu(w1[e] x) * w3[e] x), w1 and w3 [E, F, D], w2 [E, D, F]; "
        "`per_token` gates of a token are not zero",
        _infer,
        _evaluate,
        None,
        _flops,
        _decompose,
        source="Shazeer et al. 2017, arXiv:1701.06538; Dai et al. 2024, arXiv:2401.06066",
        operands=(5, 5),
        attrs="per_token",
    ),
]
OPS = {row.name: row for row in _ROWS}
