"""Attention whose queries, keys and values depend on the length of the step.

Symbols: B batch, T tokens, D width.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from latentc.components.blocks.mixers.attention import Attention, Call
from latentc.components.decoding import Given
from latentc.components.parts import Mixer, Refusal, condition_of, dense
from latentc.ir.builder import Builder, Var


class DistanceAttention(Attention):
    """Self-attention; a linear map of the embedded span is added to queries, keys and values (TiM, Wang et al. 2025,
    arXiv:2509.04394). A `transition_transformer` passes the span to its blocks.
    """

    kind: Literal["distance_attention"]  # type: ignore[assignment]
    CLASS: ClassVar[tuple[str, str]] = (
        "DistanceAttention",
        "Multi-head self-attention; queries, keys and values depend on the span, which follows the condition in c",
    )
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "distance_attention", "heads": 2}

    def further(self, given: Given) -> tuple[Var, ...]:
        return (condition_of(self, given),)

    def joint(self, call: Call, x: Var, size: Any, bias: bool) -> Var:
        b, (c,) = call.b, call.more
        _, span = condition_and_span(b, self, c, call.dim)
        added = dense(b, "qkv_distance", span, size, False, call.init, out="added")
        qkv = super().joint(call, x, size, bias)
        return b.add(qkv, b.reshape(added, shape=(x.shape[0], 1, size), out="added"), out="qkv")


def condition_and_span(b: Builder, part: Mixer | Any, c: Var, width: Any) -> tuple[Var, Var]:
    """The condition and the embedded span [B, D], side by side in c [B, 2 D]. Refusal: there is no span."""
    if int(c.shape[1]) != 2 * int(width):
        message = f"`{part.kind}` needs the embedded span, but these blocks are not given it"
        raise Refusal(message, "use a `transition_transformer`", part=part)
    condition, span = b.split(c, axis=1, sizes=(width, width), out="c span")
    return condition, span
