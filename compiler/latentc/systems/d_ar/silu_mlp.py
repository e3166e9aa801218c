"""Two linear layers with SiLU between them."""

from __future__ import annotations

from functools import cache
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.parts import FeedForward, dense, portion
from latentc.ir.builder import BlockBody, Builder, Var, module_class


class SiluMlp(FeedForward):
    """fc2(silu(fc1(x))), with biases (D-AR, Gao and Shou 2025, arXiv:2505.23660)."""

    kind: Literal["silu_mlp"]
    ratio: float = Field(4.0, gt=0, description="hidden width as a multiple of the width")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "silu_mlp"}

    def static(self, dim: int) -> dict[str, Any]:
        return {"hidden": int(self.ratio) * dim if self.ratio == int(self.ratio) else portion(dim, self.ratio)}

    def apply(self, b: Builder, name: str, x: Var, init: str, **static: Any) -> Var:
        return b.sub(name, _forward(init), x, **static)


@cache
def _forward(init: str) -> BlockBody:
    @module_class("SiluMlp")
    def mlp(b: Builder, x: Var, *, dim: int, hidden: int) -> Var:
        """Two linear layers with SiLU between them."""
        return dense(b, "fc2", b.silu(dense(b, "fc1", x, hidden, True, init)), dim, True, init)

    return mlp
