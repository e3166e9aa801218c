"""A text as tokens to attend to, and as one vector that attention pools.

Symbols: B batch, L tokens of the text, E their width, D width, H heads, d channels of a head.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.blocks.cross_attention import attended, keys_and_values
from latentc.components.blocks.norms.rms_norm import RmsNorm
from latentc.components.conditions.features import Features
from latentc.components.parts import Refusal, Spec
from latentc.ir.builder import BlockBody, Builder, Var, f32, module_class


class AttendedText(Features):
    """Features f32[B, L, E] of a text, normalised by their root mean square: networks take two linear layers of them as
    tokens, and their attentive pool as a vector (Infinity, Han et al. 2024, arXiv:2412.04431).

    The null is a learned sequence, of which as many features count as of the text itself.
    """

    kind: Literal["attended_text"]  # type: ignore[assignment]
    null_embedding: Literal["sequence"] = Field(  # type: ignore[assignment]
        "sequence", description="features that replace dropped ones: a learned sequence"
    )
    projection: Literal["mlp"] = Field("mlp", description="tokens are two linear layers with GELU between them")  # type: ignore[assignment]
    padding: Literal["masked"] = Field("masked", description="invalid features are hidden from attention")  # type: ignore[assignment]
    head_width: int = Field(128, gt=0, le=16_384, description="the attentive pool has E / `head_width` heads")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "attended_text", "head_width": 2}

    def null_operands(self, b: Builder, name: str, operands: tuple[Var, ...], spec: Spec) -> tuple[Var, ...]:
        x, mask, *given = operands
        return b.scalar(0.0, x), mask, *(b.scalar(0.0, one) for one in given)

    def projected(self, b: Builder, prefix: str, x: Var, width: Any, out: str) -> Var:
        x = RmsNorm(kind="rms_norm", eps=1e-6).apply(b, f"{prefix}_norm", x)
        return super().projected(b, prefix, x, width, out)

    def pooled_and_tokens(
        self, b: Builder, prefix: str, name: str, operands: tuple[Var, ...], width: Any, sizes: Mapping[str, Any]
    ) -> tuple[Var, Var, Var]:
        """The pool f32[B, D], tokens f32[B, L, D], and a mask bool[B, L] of those that count."""
        x, mask, *given = operands
        features = int(x.shape[2])
        heads = features // self.head_width
        if not heads or features % self.head_width or int(width) % heads:
            message = f"{features} features have no heads of {self.head_width} whose number divides the width {width}"
            raise Refusal(message, "change `head_width`", ("head_width",), self)
        x = self.or_null(b, prefix, (x, *given), name)
        x = RmsNorm(kind="rms_norm", eps=1e-6).apply(b, f"{prefix}_norm", x)
        pooled = b.sub(f"{prefix}_pool", attentive_pool(), x, mask, dim=width, heads=heads, out="pooled")
        return pooled, super().projected(b, prefix, x, width, name), mask


@cache
def attentive_pool() -> BlockBody:
    @module_class("AttentivePool", x="B L E")
    def pool(b: Builder, x: Var, mask: Var, *, dim: int, heads: int) -> Var:
        """A vector [B, D] of the tokens x [B, L, E] where the mask [B, L] is true, by attention of a learned query."""
        q = b.param("query", f32(1, heads, 1, dim // heads), "normal", std=0.02)
        q = b.broadcast_to(q, x, shape=(x.shape[0], heads, 1, dim // heads), out="q")
        k, v = keys_and_values(b, x, dim, heads, True, "normal")
        seen = b.reshape(mask, shape=(mask.shape[0], 1, 1, mask.shape[1]), out="seen")
        return b.reshape(attended(b, q, k, v, (seen,), dim, "normal"), shape=(x.shape[0], dim), out="pooled")

    return pool
