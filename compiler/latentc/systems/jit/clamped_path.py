"""The straight path from noise to data whose velocities, of a network that predicts the data, stay bounded."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components import Closed
from latentc.components.processes.formulas import Maths
from latentc.components.processes.interpolant import Interpolant
from latentc.components.processes.prediction import Prediction


class Clamp(Closed):
    """The network returns the data F; the velocity is (F - x) / max(1 - t, `least`), also where 1 - t is less."""

    least: float
    noise_scale: float

    def divisor(self, m: Maths, t: Any) -> Any:
        """max(1 - t, `least`)."""
        return m.clamp(1.0 - t, self.least, 1.0, out="divisor")

    def input_scale(self, m: Maths, t: Any) -> Any:
        return 1.0

    def denoiser(self, m: Maths, t: Any) -> tuple[Any, Any]:
        share = (1.0 - t) / self.divisor(m, t)
        return 1.0 - share, share

    def functional(self, m: Maths, t: Any) -> tuple[Any, Any]:
        divisor = self.divisor(m, t)
        return t + divisor, self.noise_scale * (1.0 - t - divisor)


class ClampedPath(Interpolant):
    """x = t x0 + (1 - t) s noise, with s the `noise_scale` (Li and He 2025, arXiv:2511.13720).

    The network predicts the data; its velocity (F - x) / (1 - t) is divided by `least` at the least.
    """

    kind: Literal["clamped_path"]  # type: ignore[assignment]
    path: Literal["linear"] = Field("linear", description="the straight path")
    noise_time: Literal[0] = Field(0, description="time at the noise end")
    least: float = Field(0.05, gt=0, lt=1, description="least divisor of velocities")
    noise_scale: float = Field(
        1.0, gt=0, le=1_000, description="standard deviation of the noise; larger for larger images"
    )
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "clamped_path", "times": "logit_normal", "logit_mean": -0.8}

    def sigma(self, m: Maths, t: Any) -> Any:
        return self.noise_scale * (1.0 - t)

    def derivatives(self, m: Maths, t: Any) -> tuple[Any, Any]:
        return 1.0, -self.noise_scale

    @property
    def preconditioning(self) -> Clamp:
        return Clamp(least=self.least, noise_scale=self.noise_scale)

    def prior_scale(self, t: float) -> float:
        return self.noise_scale

    def time_range(self, predicts: Prediction) -> tuple[float, float]:
        if predicts != "preconditioned":
            return super().time_range(predicts)
        eps = 0.0 if self.train_eps is None else self.train_eps
        return eps, 1.0 - eps
