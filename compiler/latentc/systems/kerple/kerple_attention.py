"""Attention with a kernel of the distance between tokens.

Symbols: B batch, T tokens, H heads, d channels of a head.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from latentc.components import Component, OneOf
from latentc.components.blocks.mixers.attention import Attention, Call
from latentc.components.decoding import UNSEEN
from latentc.components.parts import Problem, Refusal, Spec
from latentc.ir.builder import Builder, Var
from latentc.systems.kerple.kernels import ScoreKernel, distances, distances_from


class KerpleAttention(Attention):
    """Attention whose scores a kernel of the distance between tokens along the sequence modifies (KERPLE)."""

    kind: Literal["kerple_attention"]  # type: ignore[assignment]
    kernel: Annotated[Component, OneOf("blocks/score_kernels")] = Field(description="kernel of the distance")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "kerple_attention", "heads": 2, "kernel": {"kind": "kerple_log"}}

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from super().problems(spec)
        assert isinstance(self.kernel, ScoreKernel)
        if self.kernel.multiplies and self.kv_heads not in (None, self.heads):
            message = f"`{self.kernel.kind}` multiplies the scores, which needs as many key heads as query heads"
            yield Problem(("kernel",), message, "leave out its `factor`, or `kv_heads`")

    def mixed(self, call: Call, q: Var, k: Var, v: Var) -> Var:
        b, kernel, mask, keys = call.b, self.kernel, call.given.mask, k.shape[2]
        assert isinstance(kernel, ScoreKernel)
        if call.given.form.method == "extend":
            message = "this network takes tokens in chunks, in an order of its own, in which they have no distance"
            raise Refusal(message, "use `{kind: attention}`", part=self)
        position = call.given.values.get("position")
        causal = self.causal and position is None
        distance = distances(b, keys, self.causal) if position is None else distances_from(b, position, keys)
        drop = {"dropout": self.weight_dropout} if self.weight_dropout else {}
        if not kernel.multiplies:
            _, bias = kernel.terms(b, distance, q.shape[1])
            assert bias is not None
            bias = b.reshape(bias, shape=(1, q.shape[1], *distance.shape[1:]), out="bias")
            return b.attention(q, k, v, _masked(b, bias, mask), causal=causal, scale=None, **drop, out="x")
        scores = b.matmul(q, b.transpose(k, perm=(0, 1, 3, 2))) * (1 / math.sqrt(int(q.shape[3])))
        scores = kernel.on(b, scores, distance)
        if causal:
            place = b.arange(keys)
            seen = b.less_equal(b.reshape(place, shape=(1, keys)), b.reshape(place, shape=(keys, 1)))
            scores = b.where(seen, scores, UNSEEN, out="scores")
        weights = b.softmax(_masked(b, scores, mask), axis=-1)
        return b.matmul(b.dropout(weights, p=self.weight_dropout) if drop else weights, v, out="x")


def _masked(b: Builder, scores: Var, mask: Var | None) -> Var:
    """Scores, or a bias of them, hidden where `mask` is false; a mask of numbers is added."""
    if mask is None:
        return scores
    return b.where(mask, scores, UNSEEN, out="bias") if mask.type.dtype == "bool" else b.add(scores, mask, out="bias")
