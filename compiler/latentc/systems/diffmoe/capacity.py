"""Experts of a limited capacity, which may fall in training."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

from pydantic import Field

from latentc.components import Closed
from latentc.components.blocks.feed_forwards._experts import RoutedExperts
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import Builder, Var, f32


class CapacitySchedule(Closed):
    """A capacity that falls in training from all experts per token to the one that is set (Shi et al. 2025)."""

    hold: int = Field(ge=0, le=10_000_000, description="last training pass in which experts process all tokens")
    until: int = Field(gt=0, le=10_000_000, description="training pass from which the configured capacity applies")

    def capacity(self, b: Builder, final: float, experts: Any) -> Var:
        """Experts per token, f32[1]: in training it falls with the passes, in inference it is `final`."""
        count = b.param("passes", f32(1), "count", "buffer")
        passes = b.training_passes(count, otherwise=float(self.until), out="passes")
        left = (float(self.until) - passes) / float(self.until - self.hold)
        left = b.clamp(left, low=0.0, high=1.0, out="left")
        return b.op("add", left * b.scalar(experts, left), (1.0 - left) * final, out="capacity")


class CapacityExperts(RoutedExperts):
    """Experts that pick their tokens, on average `capacity` experts per token."""

    capacity: float = Field(1.0, gt=0, le=1_024, description="mean number of experts per token (in training)")
    schedule: CapacitySchedule | None = Field(None, description="a higher capacity early in training; null: none")

    EXAMPLE: ClassVar[dict[str, Any]] = {"experts": 4, "ratio": 2.0, "schedule": {"hold": 0, "until": 2}}

    def problems(self, spec: Spec) -> Iterator[Problem]:
        if self.capacity > self.experts:
            message = f"a capacity of {self.capacity} experts per token exceeds `experts` ({self.experts})"
            yield Problem(("capacity",), message, f"choose up to {self.experts}")
        if self.schedule is not None and self.schedule.until <= self.schedule.hold:
            message = f"`until` (pass {self.schedule.until}) must come after `hold` (pass {self.schedule.hold})"
            yield Problem(("schedule", "until"), message, f"choose more than {self.schedule.hold}")
