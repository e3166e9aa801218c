"""A path whose networks take whole times."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.processes.formulas import Maths
from latentc.components.processes.interpolant import Interpolant

ROUNDING = 2.0**-13
"""What a time may be below a whole one to count as it: two steps of float32 at 1000."""


class WholeTimePath(Interpolant):
    """An `interpolant`, usually with time 1 at the noise, of whose times networks are given whole thousandths (Ren et
    al. 2025, arXiv:2502.20388).
    """

    kind: Literal["whole_time_path"]  # type: ignore[assignment]
    noise_time: Literal[0, 1] = Field(1, description="time at the noise end; data is at the other end")
    resolution: int = Field(1000, gt=0, le=1_000_000, description="whole times that networks tell apart; rounded down")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "whole_time_path", "times": "logit_normal"}

    def network_time(self, m: Maths, t: Any) -> Any:
        return m.floor(m.affine(t, float(self.resolution), ROUNDING), out="whole")
