"""Common parts of mixtures of experts: the experts' stacked weights and the feed-forward that all tokens use.

Symbols: B batch, T tokens, D (`dim`) width, E experts, F (`hidden`) their hidden width.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field

from latentc.components import Closed
from latentc.components.blocks.feed_forwards.gelu_mlp import GeluMlp
from latentc.components.blocks.feed_forwards.swiglu import Swiglu
from latentc.components.parts import Problem
from latentc.ir.builder import Builder, Var, f32

Activation = Literal["swiglu", "gelu"]


class CapacitySchedule(Closed):
    """A capacity that falls in training from all experts per token to the one that is set (Shi et al. 2025)."""

    hold: int = Field(ge=0, le=10_000_000, description="last training pass in which experts process all tokens")
    until: int = Field(gt=0, le=10_000_000, description="training pass from which the configured capacity applies")


def problems_of_capacity(capacity: float, schedule: CapacitySchedule | None, experts: int) -> Iterator[Problem]:
    """Problems of a capacity of experts per token and its schedule."""
    if capacity > experts:
        message = f"a capacity of {capacity} experts per token exceeds `experts` ({experts})"
        yield Problem(("capacity",), message, f"choose up to {experts}")
    if schedule is not None and schedule.until <= schedule.hold:
        message = f"`until` (pass {schedule.until}) must come after `hold` (pass {schedule.hold})"
        yield Problem(("schedule", "until"), message, f"choose more than {schedule.hold}")


def scheduled_capacity(b: Builder, final: float, schedule: CapacitySchedule, experts: Any) -> Var:
    """Experts per token, f32[1]: in training it falls with the passes, in inference it is `final`."""
    count = b.param("passes", f32(1), "count", "buffer")
    passes = b.training_passes(count, otherwise=float(schedule.until), out="passes")
    left = (float(schedule.until) - passes) / float(schedule.until - schedule.hold)
    left = b.clamp(left, low=0.0, high=1.0, out="left")
    return b.op("add", left * b.scalar(experts, left), (1.0 - left) * final, out="capacity")  # type: ignore[no-any-return]


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
