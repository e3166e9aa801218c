"""Linear layers after an encoder: a single one, or a multilayer perceptron with batch norms."""

from __future__ import annotations

from functools import cache
from typing import Any

from pydantic import Field

from latentc.components import Closed, Size
from latentc.components.layers import batch_norm
from latentc.components.parts import dense
from latentc.ir.builder import BlockBody, Builder, Var, module_class

EPS = 1e-5


class Projection(Closed):
    """Maps vectors [B, D] to [B, F] by one linear layer, or by several with ReLU between them."""

    features: int = Field(gt=0, le=65_536, description="what it returns (F)")
    hidden: tuple[Size, ...] = Field((), max_length=16, description="width of each layer before the last; []: none")
    bias: bool = Field(True, description="biases")
    batch_norm: bool = Field(
        False, description="a batch norm after each layer, the last one without learned scale and shift (SimCLR)"
    )

    def apply(self, b: Builder, name: str, x: Var, init: str) -> Var:
        if not self.hidden and not self.batch_norm:
            return dense(b, name, x, self.features, self.bias, init, out="x")
        return b.sub(name, _projection(self, init), x, out="x", width=x.shape[-1], features=self.features)


@cache
def _projection(config: Projection, init: str) -> BlockBody:
    @module_class("Projection", x="B width")
    def forward(b: Builder, x: Var, *, width: int, features: int, **static: Any) -> Var:
        """Linear layers with ReLU between them."""
        sizes = (*config.hidden, features)
        for i, size in enumerate(sizes, 1):
            x, last = dense(b, f"fc{i}", x, size, config.bias, init, out="x"), i == len(sizes)
            x = batch_norm(b, f"norm{i}", x, not last, EPS, out="x") if config.batch_norm else x
            x = x if last else b.relu(x, out="x")
        return x

    return forward
