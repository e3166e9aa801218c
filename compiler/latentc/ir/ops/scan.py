"""The selective scan of state space models.

Symbols: B batch, L tokens, E channels, N numbers of state per channel; Q tokens of a chunk, K = ceil(L / Q) chunks.

Every form multiplies decays exp(delta a), which lie between 0 and 1 as a is negative; none divides by them, so that
long sequences neither overflow nor lose the first tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from latentc.ir.ops.row import Array, Attrs, Op, shaped
from latentc.ir.types import TensorType


def _evaluate(xs: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    x, delta, a, b, c = xs
    state = np.zeros((x.shape[0], *a.shape), x.dtype)
    out = np.empty_like(x)
    for i in range(x.shape[1]):
        step = delta[:, i, :, None]
        state = np.exp(step * a) * state + step * x[:, i, :, None] * b[:, i, None, :]
        out[:, i] = (state @ c[:, i, :, None])[..., 0]
    return [out]


def steps_of(length: int) -> int:
    """Tokens per chunk (Q), about the square root of the length, so that there are about as many chunks."""
    return math.isqrt(max(0, length - 1)) + 1


def chunked(b: Any, ins: Sequence[Any]) -> Any:
    """All chunks side by side, token by token; then the states at their ends, one after another.

    About 2 sqrt(L) dependent steps of static shapes.
    """
    x, delta, a, enter, leave = ins
    batch, length, channels = x.shape
    size, states = int(length), a.shape[1]
    steps = steps_of(size)
    chunks = -(-size // steps)

    def columns(v: Any) -> list[Any]:
        """The tokens at each place of all chunks: [B, K, width]."""
        width = v.shape[2]
        if extra := chunks * steps - size:
            v = b.pad(v, axis=1, before=0, after=extra, value=0.0)  # a step of 0 keeps the state
        return list(b.unbind(b.reshape(v, shape=(batch, chunks, steps, width)), axis=2))

    column, row = (batch, chunks, channels, 1), (batch, chunks, 1, states)
    state: Any = None
    passed: Any = None
    found = []
    for step, drive, inward in zip(columns(delta), columns(delta * x), columns(enter), strict=True):
        decay = b.exp(b.reshape(step, shape=column) * a)
        added = b.reshape(drive, shape=column) * b.reshape(inward, shape=row)
        state = added if state is None else decay * state + added
        passed = decay if passed is None else decay * passed
        found.append((state, passed))
    one = (batch, 1, channels, states)
    before = [b.fill_like(b.slice(state, axis=1, start=0, stop=1), 0.0)]
    for k in range(chunks - 1):
        last, all_ = (b.slice(v, axis=1, start=k, stop=k + 1) for v in (state, passed))
        before.append(b.reshape(all_ * before[-1] + last, shape=one))
    start = b.concat(*before, axis=1) if chunks > 1 else before[0]
    outs = [
        b.matmul(own + reach * start, b.reshape(outward, shape=(batch, chunks, states, 1)))
        for (own, reach), outward in zip(found, columns(leave), strict=True)
    ]
    y = b.reshape(b.concat(*outs, axis=3) if len(outs) > 1 else outs[0], shape=(batch, chunks, channels, steps))
    y = b.reshape(b.transpose(y, perm=(0, 1, 3, 2)), shape=(batch, chunks * steps, channels))
    return b.slice(y, axis=1, start=0, stop=size) if chunks * steps > size else y


def _flops(ins: Sequence[TensorType], outs: Sequence[TensorType], attrs: Attrs) -> int:
    return 9 * ins[0].count() * int(ins[2].shape[1])  # type: ignore[arg-type]


OPS = {
    "selective_scan": Op(
        "selective_scan(x, delta, a, b, c)",
        "y [B, L, E] from x and delta [B, L, E], a [E, N] (negative), b and c [B, L, N]: the state h of channel e is "
        "exp(delta a) h + delta b x from token to token, and y is the sum of c h over N",
        shaped("x [B, L, E]", "delta [B, L, E]", "a [E, N]", "b [B, L, N]", "c [B, L, N]"),
        _evaluate,
        None,
        _flops,
        lambda b, ins, attrs: [chunked(b, ins)],
        source="Gu and Dao 2023, arXiv:2312.00752",
    )
}
