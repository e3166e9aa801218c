"""The straight path that ends with a little noise left."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.processes.formulas import Maths
from latentc.components.processes.interpolant import Interpolant


class LeastNoisePath(Interpolant):
    """x = t x0 + (1 - (1 - `least`) t) noise (Lipman et al. 2022, arXiv:2210.02747, equation 20)."""

    kind: Literal["least_noise_path"]  # type: ignore[assignment]
    path: Literal["linear"] = Field("linear", description="the straight path")
    noise_time: Literal[0] = Field(0, description="time at the noise end")
    times: Literal["uniform"] = Field("uniform", description="distribution of training times")
    least: float = Field(1e-5, gt=0, lt=1, description="standard deviation of the noise at the data's end")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "least_noise_path"}

    def sigma(self, m: Maths, t: Any) -> Any:
        return 1.0 - (1.0 - self.least) * t

    def derivatives(self, m: Maths, t: Any) -> tuple[Any, Any]:
        return 1.0, self.least - 1.0
