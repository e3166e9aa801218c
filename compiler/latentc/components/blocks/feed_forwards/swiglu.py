"""The gated feed-forward of LLaMA."""

from __future__ import annotations

from functools import cache
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.parts import FeedForward, dense, portion
from latentc.ir.builder import BlockBody, Builder, Var, module_class


class Swiglu(FeedForward):
    """w2(silu(w1 x) * w3 x) (Shazeer 2020, arXiv:2002.05202); the default hidden width is two thirds of 4 D, rounded
    up.
    """

    kind: Literal["swiglu"]
    hidden: int | None = Field(None, gt=0, le=1_048_576, description="hidden width; null: set by `ratio`")
    ratio: float | None = Field(
        None, gt=0, le=1_024, description="hidden width as a multiple of the width; null: 8/3, rounded up"
    )
    activation: Literal["silu", "gelu", "gelu_tanh"] = Field(
        "silu", description="activation of the gate; with GELU, exact or by tanh, this is GEGLU"
    )
    multiple_of: int = Field(
        256, gt=0, le=65_536, description="multiple to which the default hidden width is rounded up"
    )
    bias: bool = Field(False, description="biases of the three layers")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout of the output, in training")
    GATED: ClassVar[bool] = True
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "swiglu", "multiple_of": 8}

    def static(self, dim: int) -> dict[str, Any]:
        if self.hidden is None and self.ratio is not None:
            return {"hidden": portion(dim, self.ratio)}
        wanted = int(2 * (4 * dim) / 3)
        return {"hidden": self.hidden or -(-wanted // self.multiple_of) * self.multiple_of}

    def apply(self, b: Builder, name: str, x: Var, init: str, **static: Any) -> Var:
        return b.sub(name, _forward(self, init), x, **static)


@cache
def _forward(config: Swiglu, init: str) -> BlockBody:
    def gated(b: Builder, x: Var, dim: int, hidden: int) -> Var:
        gate = dense(b, "w1", x, hidden, config.bias, init)
        if config.activation == "silu":
            gate = b.silu(gate)
        else:
            gate = b.gelu(gate, approximate="tanh" if config.activation == "gelu_tanh" else "none")
        x = dense(b, "w2", gate * dense(b, "w3", x, hidden, config.bias, init), dim, config.bias, init)
        return b.dropout(x, p=config.dropout, out="x") if config.dropout else x

    @module_class("SwiGlu")
    def swiglu(b: Builder, x: Var, *, dim: int, hidden: int) -> Var:
        """Gated feed-forward: w2(silu(w1 x) * w3 x)."""
        return gated(b, x, dim, hidden)

    @module_class("GeGlu")
    def geglu(b: Builder, x: Var, *, dim: int, hidden: int) -> Var:
        """Gated feed-forward: w2(gelu(w1 x) * w3 x)."""
        return gated(b, x, dim, hidden)

    return swiglu if config.activation == "silu" else geglu
