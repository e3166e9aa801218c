"""Two linear layers with GELU between them."""

from __future__ import annotations

from functools import cache
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.parts import FeedForward, dense, portion
from latentc.ir.builder import BlockBody, Builder, Var, module_class


class GeluMlp(FeedForward):
    """fc2(gelu(fc1(x))) (Vaswani et al. 2017 with Hendrycks and Gimpel 2016)."""

    kind: Literal["gelu_mlp"]
    ratio: float = Field(4.0, gt=0, description="hidden width as a multiple of the width")
    approximate: Literal["tanh", "none", "sigmoid"] = Field(
        "tanh", description="GELU by tanh, exactly, or as x sigmoid(1.702 x) (CLIP's quick GELU)"
    )
    bias: bool = Field(True, description="biases of both layers")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout of the output, in training")
    hidden_dropout: float = Field(0.0, ge=0, lt=1, description="dropout after the GELU, in training")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "gelu_mlp"}

    def static(self, dim: int) -> dict[str, Any]:
        if self.ratio == int(self.ratio):
            return {"hidden": int(self.ratio) * dim}  # an expression of a named width
        return {"hidden": portion(dim, self.ratio)}

    def apply(self, b: Builder, name: str, x: Var, init: str, **static: Any) -> Var:
        return b.sub(name, _forward(self, init), x, **static)


@cache
def _forward(config: GeluMlp, init: str) -> BlockBody:
    @module_class("Mlp")
    def mlp(b: Builder, x: Var, *, dim: int, hidden: int) -> Var:
        """Two linear layers with GELU between them."""
        x = dense(b, "fc1", x, hidden, config.bias, init, out="x")
        if config.approximate == "sigmoid":
            x = b.mul(x, b.sigmoid(x * 1.702), out="x")
        else:
            x = b.gelu(x, approximate=config.approximate, out="x")
        x = b.dropout(x, p=config.hidden_dropout, out="x") if config.hidden_dropout else x
        x = dense(b, "fc2", x, dim, config.bias, init)
        return b.dropout(x, p=config.dropout, out="x") if config.dropout else x

    return mlp
