"""Two linear layers with a ReLU between them."""

from __future__ import annotations

from functools import cache
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.parts import FeedForward, dense, portion
from latentc.ir.builder import BlockBody, Builder, Var, module_class


class ReluMlp(FeedForward):
    """fc2(relu(fc1(x))) (Vaswani et al. 2017, arXiv:1706.03762)."""

    kind: Literal["relu_mlp"]
    ratio: float = Field(4.0, gt=0, description="hidden width as a multiple of the width")
    bias: bool = Field(True, description="biases of both layers")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "relu_mlp"}

    def static(self, dim: int) -> dict[str, Any]:
        return {"hidden": int(self.ratio) * dim if self.ratio == int(self.ratio) else portion(dim, self.ratio)}

    def apply(self, b: Builder, name: str, x: Var, init: str, **static: Any) -> Var:
        return b.sub(name, _forward(self, init), x, **static)


@cache
def _forward(config: ReluMlp, init: str) -> BlockBody:
    @module_class("ReluMlp")
    def mlp(b: Builder, x: Var, *, dim: int, hidden: int) -> Var:
        """Two linear layers with a ReLU between them."""
        x = b.relu(dense(b, "fc1", x, hidden, config.bias, init), out="x")
        return dense(b, "fc2", x, dim, config.bias, init)

    return mlp
