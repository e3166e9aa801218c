"""What kinds of mixtures of experts share: the experts' stacked weights and the feed-forward that all tokens use.

Symbols: B batch, T tokens, D (`dim`) width, E experts, F (`hidden`) their hidden width.
"""

from __future__ import annotations

from typing import Any, Literal

from latentc.components.blocks.feed_forwards.gelu_mlp import GeluMlp
from latentc.components.blocks.feed_forwards.swiglu import Swiglu
from latentc.ir.builder import Builder, Var, f32

Activation = Literal["swiglu", "gelu"]


def routed(
    b: Builder, x: Var, gates: Var, activation: Activation, hidden: Any, init: str, per_token: float, std: float | None
) -> Var:
    """Sum of gates f32[B, T, E] times the experts of x f32[B, T, D]: f32[B, T, D].

    `std`: standard deviation of the experts' initial weights; None: as `init` says. `per_token`: see the op.
    """
    experts, dim = gates.shape[-1], x.shape[-1]
    up, down = (experts, hidden, dim), (experts, dim, hidden)
    if activation == "swiglu":
        w1, w3, w2 = (_stack(b, name, shape, init, std) for name, shape in (("w1", up), ("w3", up), ("w2", down)))
        return b.experts(x, gates, w1, w3, w2, per_token=per_token, out="y")
    w1, w2 = (_stack(b, name, shape, init, std) for name, shape in (("w1", up), ("w2", down)))
    b1, b2 = b.param("b1", f32(experts, hidden), "zeros"), b.param("b2", f32(experts, dim), "zeros")
    return b.gelu_experts(x, gates, w1, b1, w2, b2, per_token=per_token, out="y")


def shared(b: Builder, x: Var, activation: Activation, init: str, dim: Any, hidden: Any) -> Var:
    """The feed-forward that all tokens use, under `shared`."""
    part = Swiglu(kind="swiglu") if activation == "swiglu" else GeluMlp(kind="gelu_mlp")
    return part.apply(b, "shared", x, init, dim=dim, hidden=hidden)


def _stack(b: Builder, name: str, shape: tuple[Any, ...], init: str, std: float | None) -> Var:
    """The weights of all experts, each initialised as a linear layer of its own."""
    if std is not None or init == "normal":
        return b.param(name, f32(*shape), "normal", std=0.02 if std is None else std)
    return b.param(name, f32(*shape), "xavier_uniform", of="each")
