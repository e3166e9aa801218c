"""The base class of mixtures of experts: the experts' stacked weights and the feed-forward that all tokens use.

Symbols: B batch, T tokens, D (`dim`) width, E experts, F (`hidden`) their hidden width.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Literal

from pydantic import Field

from latentc.components.blocks.feed_forwards.gelu_mlp import GeluMlp
from latentc.components.blocks.feed_forwards.swiglu import Swiglu
from latentc.components.parts import FeedForward
from latentc.ir.builder import BlockBody, Builder, Var, f32

Activation = Literal["swiglu", "gelu"]


class RoutedExperts(FeedForward):
    """Feed-forward experts of which a router chooses some for each token, beside one that all tokens use."""

    experts: int = Field(8, gt=1, le=1_024, description="number of routed experts (E)")
    ratio: float = Field(4.0, gt=0, description="hidden width of an expert, as a multiple of the width")
    shared: float = Field(
        0.0, ge=0, description="hidden width of the shared expert, as a multiple of the width; 0: none"
    )
    activation: Activation = Field("gelu", description="feed-forward of a routed expert")
    shared_activation: Activation = Field("swiglu", description="feed-forward of the shared expert")

    @abstractmethod
    def body(self, init: str) -> BlockBody:
        """The module of tokens x, which chooses the experts."""

    def static(self, dim: int) -> dict[str, Any]:
        sizes = {"hidden": int(dim * self.ratio), "experts": self.experts}
        return {**sizes, **({"shared": int(dim * self.shared)} if self.shared else {})}

    def apply(self, b: Builder, name: str, x: Var, init: str, **static: Any) -> Var:
        return b.sub(name, self.body(init), x, **static)

    def routed(self, b: Builder, x: Var, gates: Var, hidden: Any, init: str, per_token: float) -> Var:
        """Sum of gates f32[B, T, E] times the experts of x f32[B, T, D]: f32[B, T, D]. `per_token`: see the op."""
        experts, dim = gates.shape[-1], x.shape[-1]
        up, down = (experts, hidden, dim), (experts, dim, hidden)
        if self.activation == "swiglu":
            w1, w3, w2 = (_stack(b, name, shape, init) for name, shape in (("w1", up), ("w3", up), ("w2", down)))
            return b.experts(x, gates, w1, w3, w2, per_token=per_token, out="y")
        w1, w2 = (_stack(b, name, shape, init) for name, shape in (("w1", up), ("w2", down)))
        b1, b2 = b.param("b1", f32(experts, hidden), "zeros"), b.param("b2", f32(experts, dim), "zeros")
        return b.gelu_experts(x, gates, w1, b1, w2, b2, per_token=per_token, out="y")

    def with_shared(self, b: Builder, y: Var, x: Var, init: str, dim: Any, hidden: Any) -> Var:
        """y plus the shared expert of x, module `shared`, if there is one."""
        if not self.shared:
            return y
        part = Swiglu(kind="swiglu") if self.shared_activation == "swiglu" else GeluMlp(kind="gelu_mlp")
        return y + part.apply(b, "shared", x, init, dim=dim, hidden=hidden)


def _stack(b: Builder, name: str, shape: tuple[Any, ...], init: str) -> Var:
    """The weights of all experts, each initialised as a linear layer of its own."""
    if init == "normal":
        return b.param(name, f32(*shape), "normal", std=0.02)
    return b.param(name, f32(*shape), "xavier_uniform", of="each")
