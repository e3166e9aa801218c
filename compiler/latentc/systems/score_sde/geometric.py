"""NCSN's geometric noise levels, of which the VE SDE is the limit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import ArrayLike
from pydantic import Field

from latentc.components.contract import Draw
from latentc.components.parts import Problem, Spec
from latentc.components.processes.formulas import Array, Maths, fractional
from latentc.components.processes.prediction import Prediction
from latentc.components.processes.process import Process


class Geometric(Process):
    """T noise levels, timestep 0 (noise) to T - 1 (nearly data): NCSN's (Song and Ermon 2019, arXiv:1907.05600).

    As `continuous: False` with the VE SDE in the code of Song et al. 2021 (arXiv:2011.13456): the data stays, and the
    network's time input is the timestep.
    """

    kind: Literal["geometric"]
    steps: int = Field(1000, gt=1, le=100_000, description="number of noise levels (T)")
    sigma_min: float = Field(0.01, gt=0, description="least noise level")
    sigma_max: float = Field(50.0, gt=0, description="greatest noise level")
    WHOLE: ClassVar[bool] = True
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "geometric", "steps": 100}

    def problems(self, spec: Spec) -> Iterator[Problem]:
        if self.sigma_min >= self.sigma_max:
            yield Problem(("sigma_min",), f"`sigma_min` must be below `sigma_max` ({self.sigma_max:g})")

    @property
    def levels(self) -> Array:
        """f64[T]: sigma of each timestep, falling."""
        return np.geomspace(self.sigma_max, self.sigma_min, self.steps)

    def alpha(self, m: Maths, t: Any) -> Any:
        return 1.0

    def sigma(self, m: Maths, t: Any) -> Any:
        return self._level(t) if fractional(t) else m.row(self.levels, t, "sigma")

    def _level(self, t: Any) -> Any:
        """sigma at times that may be between two timesteps."""
        return self.sigma_max * (self.sigma_min / self.sigma_max) ** (t / (self.steps - 1))

    def network_time(self, m: Maths, t: Any) -> Any:
        return m.real(t, out="time")

    @property
    def first(self) -> float:
        return 0.0

    @property
    def last(self) -> float:
        return self.steps - 1.0

    @property
    def data(self) -> float:
        return float(self.steps)

    def prior_scale(self, t: float) -> float:
        return float(self.point(t).sigma)

    def time_of_level(self, level: ArrayLike) -> Array:
        share = np.log(np.asarray(level, np.float64) / self.sigma_max) / np.log(self.sigma_min / self.sigma_max)
        return np.asarray(share * (self.steps - 1))

    def draw(self) -> Draw:
        return Draw("t", "integers", {"high": self.steps})

    def training_time(self, m: Maths, draw: Any, predicts: Prediction) -> Any:
        return draw
