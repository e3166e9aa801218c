"""EDM's process: noise of any level on the data, and a network whose input and output are scaled."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import ArrayLike
from pydantic import Field

from latentc.components.contract import Draw
from latentc.components.formula_source import Sources
from latentc.components.processes.formulas import Array, Maths, Symbolic
from latentc.components.processes.prediction import Prediction
from latentc.components.processes.process import Process


class Edm(Process):
    """x = x0 + sigma noise, where time is sigma itself (Karras et al. 2022, arXiv:2206.00364, table 1).

    The network takes c_in x and `time_factor` log(sigma). Its `preconditioned` prediction F has unit variance: the
    denoised sample is c_skip x + c_out F. The mean squared error of F is EDM's weighted loss of the denoised sample.
    """

    kind: Literal["edm"]
    sigma_data: float = Field(0.5, gt=0, description="standard deviation of the data")
    p_mean: float = Field(-1.2, description="mean of log(sigma) in training")
    p_std: float = Field(1.2, gt=0, description="standard deviation of log(sigma) in training")
    sigma_min: float = Field(0.002, gt=0, description="smallest noise level of sampling")
    sigma_max: float = Field(80.0, gt=0, description="largest noise level of sampling")
    time_factor: float = Field(
        0.25, gt=0, description="factor of log(sigma) in the time that the network takes; 250: consistency models"
    )
    SPACING: ClassVar[str | None] = "karras"
    TRIED: ClassVar[tuple[str, ...]] = ("log_snr",)
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "edm"}

    @property
    def data_std(self) -> float:
        return self.sigma_data

    def alpha(self, m: Maths, t: Any) -> Any:
        return 1.0

    def sigma(self, m: Maths, t: Any) -> Any:
        return t

    def derivatives(self, m: Maths, t: Any) -> tuple[Any, Any]:
        return 0.0, 1.0

    def _deviation(self, m: Maths, t: Any) -> Any:
        return m.sqrt(t * t + self.sigma_data**2, out="deviation")

    def preconditioned(self, m: Maths, t: Any) -> tuple[Any, Any]:
        deviation = self._deviation(m, t)
        return t / (self.sigma_data * deviation), -self.sigma_data / deviation

    def denoiser(self, m: Maths, t: Any) -> tuple[Any, Any]:
        c_skip = self.sigma_data**2 / (t * t + self.sigma_data**2)
        return c_skip, t * self.sigma_data / self._deviation(m, t)

    def network_time(self, m: Maths, t: Any) -> Any:
        return m.affine(m.log(t), self.time_factor, 0.0, out="time")

    def input_scale(self, m: Maths, t: Any) -> Any:
        return 1.0 / self._deviation(m, t)

    @property
    def first(self) -> float:
        return self.sigma_max

    @property
    def last(self) -> float:
        return self.sigma_min

    @property
    def data(self) -> float:
        return 0.0

    def prior_scale(self, t: float) -> float:
        return t

    def time_of_level(self, level: ArrayLike) -> Array:
        return np.array(level, np.float64)

    def time_text(self, sources: Sources, level: str) -> str:
        return "{}"

    def has(self, t: float) -> bool:
        return t > 0.0

    def level_bounds(self) -> tuple[float, float]:
        return 0.0, np.inf

    def spread(self, start: float, stop: float, left: ArrayLike) -> Array:
        return stop * (start / stop) ** np.asarray(left, np.float64)

    def progress(self, t: ArrayLike) -> Array:
        with np.errstate(divide="ignore"):
            left = np.log(np.asarray(t, np.float64) / self.sigma_min) / np.log(self.sigma_max / self.sigma_min)
        return np.clip(1.0 - left, 0.0, 1.0)

    def draw(self) -> Draw:
        return Draw("u", "normal")

    def training_time(self, m: Maths, draw: Any, predicts: Prediction) -> Any:
        return m.exp(m.affine(draw, self.p_std, self.p_mean), out="t")

    def at(self, m: Symbolic, t: Any) -> Any:
        return m.column(t, "sigma")


__all__ = ["Edm"]
