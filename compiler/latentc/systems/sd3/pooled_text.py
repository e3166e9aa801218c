"""A vector of a whole text, through two layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.condition import Form
from latentc.components.conditions.vector import Vector
from latentc.ir.builder import Builder, Var, module_class


class PooledText(Vector):
    """A vector per sample, such as CLIP's of a whole text, through two linear layers with SiLU between them."""

    kind: Literal["pooled_text"]  # type: ignore[assignment]
    bias: Literal[True] = Field(True, description="the layers have biases")
    weights: Literal["normal"] = Field("normal", description="initial weights are normal")
    FORMS: ClassVar[tuple[Form, ...]] = ("vector",)
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "pooled_text"}

    def vector(
        self, b: Builder, prefix: str, name: str, operands: tuple[Var, ...], width: Any, sizes: Mapping[str, Any]
    ) -> Var:
        return b.sub(prefix, _embedder, self.or_null(b, prefix, operands, name), width=width, out=name)


@module_class("VectorEmbedder", x="B C")
def _embedder(b: Builder, x: Var, *, width: int) -> Var:
    """Two linear layers with SiLU between them."""
    x = b.silu(b.dense("fc1", x, width, init="normal", std=0.02), out="x")
    return b.dense("fc2", x, width, init="normal", std=0.02)
