"""The straight path from noise of any scale at time 1 to the data at time 0, and the divisor of its velocities."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.processes.formulas import Maths
from latentc.components.processes.interpolant import Interpolant

LEAST = 0.05
"""Least time that a difference from the data is divided by."""


class PixelPath(Interpolant):
    """x = (1 - t) x0 + t s noise, with s the `noise_scale` (pMF, arXiv:2601.22158)."""

    kind: Literal["pixel_path"]  # type: ignore[assignment]
    path: Literal["linear"] = Field("linear", description="the straight path")
    noise_time: Literal[1] = Field(1, description="time at the noise end")
    noise_scale: float = Field(
        1.0, gt=0, le=1_000, description="standard deviation of the noise; larger for larger images"
    )
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "pixel_path", "times": "logit_normal", "logit_mean": -0.4}

    def sigma(self, m: Maths, t: Any) -> Any:
        return self.noise_scale * t

    def derivatives(self, m: Maths, t: Any) -> tuple[Any, Any]:
        return -1.0, self.noise_scale

    def prior_scale(self, t: float) -> float:
        return self.noise_scale
