"""A sequence of features."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.condition import TokenShape
from latentc.components.conditions.array import NumbersCondition
from latentc.components.conditions.tokens import SequenceCondition
from latentc.components.parts import Spec
from latentc.ir.builder import BlockBody, Builder, Var, module_class


class Features(NumbersCondition, SequenceCondition):
    """Features f32[B, L, D], such as those of a text encoder, and a mask of the valid ones, the data's field
    `FIELD_mask`. Only the first of the null is valid, unless the null is a learned sequence.
    """

    kind: Literal["features"]
    null_embedding: Literal["zeros", "vector", "sequence", "given"] = Field(
        "zeros",
        description="features that replace dropped ones: zeros, one learned vector for all tokens, a learned sequence "
        "(PixArt), or those that data and requests give as `NAME_null` (a negative prompt)",
    )
    projection: Literal["linear", "mlp", "none"] = Field(
        "linear",
        description="projection to the network's width; mlp: two linear layers with GELU between them; none: "
        "unchanged, for blocks that attend to features of any width",
    )
    padding: Literal["masked", "zeros", "none"] = Field(
        "masked",
        description="invalid features are hidden from attention, or are zeros that are seen (STARFlow); none: all are "
        "valid, and the data has no mask (Stable Diffusion 3)",
    )
    RANKS: ClassVar[tuple[int, ...]] = (2,)
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "features"}

    def null_operands(self, b: Builder, name: str, operands: tuple[Var, ...], spec: Spec) -> tuple[Var, ...]:
        return self.nulls(b, operands, whole=self.null_embedding == "sequence")

    def token_shape(self, name: str, spec: Spec) -> TokenShape:
        width = self.shape(name, spec)[-1] if self.projection == "none" else None
        return replace(super().token_shape(name, spec), width=width)

    def tokens(
        self, b: Builder, prefix: str, name: str, operands: tuple[Var, ...], width: Any, sizes: Mapping[str, Any]
    ) -> tuple[Var, Var | None]:
        x, *given = operands
        mask = given.pop(0) if self.has_mask else None
        if self.padding == "zeros" and mask is not None:
            x, mask = b.where(b.reshape(mask, shape=(*mask.shape, 1)), x, 0.0, out=name), None
        return self.projected(b, prefix, self.or_null(b, prefix, (x, *given), name), width, name), mask

    def projected(self, b: Builder, prefix: str, x: Var, width: Any, out: str) -> Var:
        """Features f32[B, L, D] at the width of the network, params under `prefix`."""
        if self.projection == "none":
            return x
        if self.projection == "mlp":
            return b.sub(prefix, feature_embedder(True), x, width=width, out=out)
        return b.dense(prefix, x, width, init="normal", std=0.02, out=out)


@cache
def feature_embedder(bias: bool) -> BlockBody:
    """A block: features f32[B, L, C] -> f32[B, L, width]."""

    @module_class("FeatureEmbedder", x="B L C")
    def embed(b: Builder, x: Var, *, width: int) -> Var:
        """Two linear layers with GELU between them."""
        x = b.dense("fc1", x, width, bias=bias, init="normal", std=0.02)
        x = b.gelu(x, approximate="tanh", out="x")
        return b.dense("fc2", x, width, bias=bias, init="normal", std=0.02)

    return embed
