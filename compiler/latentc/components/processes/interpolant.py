"""The paths of flow matching and stochastic interpolants: time runs from noise (0) to data (1)."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.contract import Draw
from latentc.components.processes.formulas import Maths
from latentc.components.processes.prediction import Prediction
from latentc.components.processes.process import Process
from latentc.components.processes.sde import d_log_alpha, log_alpha


class Interpolant(Process):
    """A path x_t = alpha(t) x0 + sigma(t) noise (SiT, Ma et al. 2024, section 2.3; Lipman et al. 2022).

    `linear`: alpha = t, sigma = 1 - t. `gvp`: alpha = sin(pi t / 2), sigma = cos(pi t / 2). `vp`: the
    variance-preserving SDE, run backwards.
    """

    kind: Literal["interpolant"]
    path: Literal["linear", "gvp", "vp"] = Field("linear", description="path from noise to data")
    beta_min: float = Field(0.1, gt=0, description="vp path: noise rate at the data")
    beta_max: float = Field(20.0, gt=0, description="vp path: noise rate at the noise")
    train_eps: float | None = Field(
        None, ge=0, lt=0.5, description="distance kept from the ends of time in training; null: SiT's own"
    )
    ODE: ClassVar[Literal["time", "level"]] = "time"
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "interpolant"}

    def alpha(self, m: Maths, t: Any) -> Any:
        if self.path == "linear":
            return t
        if self.path == "gvp":
            return m.sin(t * (math.pi / 2), out="alpha")
        return m.exp(log_alpha(1.0 - t, self.beta_min, self.beta_max), out="alpha")

    def sigma(self, m: Maths, t: Any) -> Any:
        if self.path == "linear":
            return 1.0 - t
        if self.path == "gvp":
            return m.cos(t * (math.pi / 2), out="sigma")
        return m.sqrt(1.0 - m.exp(2.0 * log_alpha(1.0 - t, self.beta_min, self.beta_max)), out="sigma")

    def derivatives(self, m: Maths, t: Any) -> tuple[Any, Any]:
        if self.path == "linear":
            return 1.0, -1.0
        alpha, sigma = self.alpha(m, t), self.sigma(m, t)
        if self.path == "gvp":
            return (math.pi / 2) * sigma, -(math.pi / 2) * alpha
        growth = -d_log_alpha(1.0 - t, self.beta_min, self.beta_max)
        return alpha * growth, -(alpha * alpha * growth / sigma)

    @property
    def first(self) -> float:
        return 0.0

    @property
    def last(self) -> float:
        return 1.0

    @property
    def data(self) -> float:
        return 1.0

    def level_range(self) -> tuple[float, float]:
        eps = 1e-3
        return float(self.level(1.0 - eps)), float(self.level(0.0 if self.path == "vp" else eps))

    def draw(self) -> Draw:
        return Draw("u", "uniform")

    def time_range(self, predicts: Prediction) -> tuple[float, float]:
        """Times drawn in training: away from where the prediction is singular."""
        if self.path == "vp":
            return 0.0, 1.0 - (1e-5 if self.train_eps is None else self.train_eps)
        if predicts == "flow_velocity":
            return 0.0, 1.0
        eps = 1e-3 if self.train_eps is None else self.train_eps
        return eps, 1.0 - eps

    def training_time(self, m: Maths, draw: Any, predicts: Prediction) -> Any:
        start, stop = self.time_range(predicts)
        return m.affine(draw, stop - start, start, out="t")


__all__ = ["Interpolant"]
