"""EDM's process: noise of any level on the data, and a network whose input and output are scaled."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import ArrayLike
from pydantic import Field

from latentc.components import Closed
from latentc.components.contract import Draw
from latentc.components.processes.formulas import Array, Maths
from latentc.components.processes.prediction import Prediction
from latentc.components.processes.process import Defaults, Process


class Scalings(Closed):
    """EDM's preconditioning: input and training target of the network have variance 1."""

    sigma_data: float

    def _deviation(self, m: Maths, t: Any) -> Any:
        return m.sqrt(t * t + self.sigma_data**2, out="deviation")

    def input_scale(self, m: Maths, t: Any) -> Any:
        return 1.0 / self._deviation(m, t)

    def denoiser(self, m: Maths, t: Any) -> tuple[Any, Any]:
        c_skip = self.sigma_data**2 / (t * t + self.sigma_data**2)
        return c_skip, t * self.sigma_data / self._deviation(m, t)

    def functional(self, m: Maths, t: Any) -> tuple[Any, Any]:
        deviation = self._deviation(m, t)
        return t / (self.sigma_data * deviation), -self.sigma_data / deviation


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
    DEFAULTS: ClassVar[Defaults] = Defaults(spacing="karras", tried=("log_snr",))
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "edm"}

    def alpha(self, m: Maths, t: Any) -> Any:
        return 1.0

    def sigma(self, m: Maths, t: Any) -> Any:
        return t

    def derivatives(self, m: Maths, t: Any) -> tuple[Any, Any]:
        return 0.0, 1.0

    @property
    def preconditioning(self) -> Scalings:
        return Scalings(sigma_data=self.sigma_data)

    def network_time(self, m: Maths, t: Any) -> Any:
        return m.affine(m.log(t), self.time_factor, 0.0, out="time")

    @property
    def first(self) -> float:
        return self.sigma_max

    @property
    def last(self) -> float:
        return self.sigma_min

    @property
    def data(self) -> float:
        return 0.0

    @property
    def bounds(self) -> tuple[float, float]:
        return math.inf, math.ulp(0.0)  # any level

    def prior_scale(self, t: float) -> float:
        return t

    def time_of_level(self, level: ArrayLike) -> Array:
        return np.array(level, np.float64)

    def progress(self, t: ArrayLike) -> Array:
        with np.errstate(divide="ignore"):
            left = np.log(np.asarray(t, np.float64) / self.sigma_min) / np.log(self.sigma_max / self.sigma_min)
        return np.clip(1.0 - left, 0.0, 1.0)

    def draw(self) -> Draw:
        return Draw("u", "normal")

    def training_time(self, m: Maths, draw: Any, predicts: Prediction) -> Any:
        return m.exp(m.affine(draw, self.p_std, self.p_mean), out="t")
