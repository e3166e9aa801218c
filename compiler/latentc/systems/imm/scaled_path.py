"""The straight path to noise of the data's standard deviation, and a network with scaled input and output."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components import Closed
from latentc.components.processes.formulas import Maths
from latentc.components.processes.interpolant import Interpolant
from latentc.components.processes.prediction import Prediction


class PathScalings(Closed):
    """The network takes x over its standard deviation; its output F is the velocity over `sigma_data`."""

    sigma_data: float

    def input_scale(self, m: Maths, t: Any) -> Any:
        return 1.0 / (self.sigma_data * m.sqrt((1.0 - t) * (1.0 - t) + t * t, out="deviation"))

    def denoiser(self, m: Maths, t: Any) -> tuple[Any, Any]:
        return m.affine(t, 0.0, 1.0), -self.sigma_data * t  # as many ones as times

    def functional(self, m: Maths, t: Any) -> tuple[Any, Any]:
        return -1.0 / self.sigma_data, 1.0


class ScaledPath(Interpolant):
    """x = (1 - t) x0 + t `sigma_data` noise, for t up to `start` (Zhou et al. 2025, arXiv:2503.07565).

    The network takes x over its standard deviation and `time_scale` t. Its `preconditioned` prediction is the velocity
    over `sigma_data`.
    """

    kind: Literal["scaled_path"]  # type: ignore[assignment]
    path: Literal["linear"] = Field("linear", description="the straight path")
    noise_time: Literal[1] = Field(1, description="time at the noise end")  # type: ignore[assignment]
    sigma_data: float = Field(0.5, gt=0, le=1_000, description="standard deviation of the data and of the noise")
    start: float = Field(0.994, gt=0, lt=1, description="time of the noise, where training and sampling start")
    time_scale: float = Field(1000.0, gt=0, le=1_000_000, description="factor of the time that the network takes")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "scaled_path"}

    def sigma(self, m: Maths, t: Any) -> Any:
        return self.sigma_data * t

    def derivatives(self, m: Maths, t: Any) -> tuple[Any, Any]:
        return -1.0, self.sigma_data

    @property
    def preconditioning(self) -> PathScalings:
        return PathScalings(sigma_data=self.sigma_data)

    def network_time(self, m: Maths, t: Any) -> Any:
        return m.affine(t, self.time_scale, 0.0, out="time")

    @property
    def first(self) -> float:
        return self.start

    def prior_scale(self, t: float) -> float:
        return self.sigma_data

    def time_range(self, predicts: Prediction) -> tuple[float, float]:
        # What is preconditioned is a velocity, which is singular nowhere.
        return super().time_range("flow_velocity" if predicts == "preconditioned" else predicts)[0], self.start
