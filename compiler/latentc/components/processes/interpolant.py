"""The paths of flow matching and stochastic interpolants, from noise at one end of the time from 0 to 1 to data at the
other.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.contract import Draw
from latentc.components.parts import Applies, Problem, Spec
from latentc.components.processes.formulas import Maths
from latentc.components.processes.prediction import Prediction
from latentc.components.processes.process import Defaults, Process
from latentc.components.processes.sde import d_log_alpha, log_alpha


class Interpolant(Process):
    """A path x_t = alpha(t) x0 + sigma(t) noise (SiT, Ma et al. 2024, section 2.3; Lipman et al. 2022).

    With s the progress from noise (0) to data (1), `linear`: alpha = s, sigma = 1 - s. `gvp`: alpha = sin(pi s / 2),
    sigma = cos(pi s / 2). `vp`: the variance-preserving SDE, run backwards. The time is s, or 1 - s if `noise_time` is
    1; velocities are derivatives by the time, so they change sign with it.
    """

    kind: Literal["interpolant"]
    path: Literal["linear", "gvp", "vp"] = Field("linear", description="path from noise to data")
    noise_time: Literal[0, 1] = Field(
        0, description="time at the noise end; data is at the other end. 0 in SiT, 1 in rectified flow and MeanFlow"
    )
    APPLIES: ClassVar[Applies] = {"beta_min": ("path", ("vp",)), "beta_max": ("path", ("vp",))}
    beta_min: float = Field(0.1, gt=0, description="vp path: noise rate at the data end")
    beta_max: float = Field(20.0, gt=0, description="vp path: noise rate at the noise end")
    train_eps: float | None = Field(
        None, ge=0, lt=0.5, description="distance kept from both ends of time in training; null: as in SiT"
    )
    times: Literal["uniform", "logit_normal", "log_normal"] = Field(
        "uniform",
        description="distribution of training times; logit_normal: the sigmoid of a normal variate; log_normal: the "
        "log of the noise level sigma / alpha is normal (REPA), not for path `vp`",
    )
    logit_mean: float = Field(0.0, description="mean of the normal variate")
    logit_std: float = Field(1.0, gt=0, description="standard deviation of the normal variate")
    DEFAULTS: ClassVar[Defaults] = Defaults(over="time")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "interpolant"}

    def _progress(self, t: Any) -> Any:
        return 1.0 - t if self.noise_time else t

    def alpha(self, m: Maths, t: Any) -> Any:
        s = self._progress(t)
        if self.path == "linear":
            return s
        if self.path == "gvp":
            return m.sin(s * (math.pi / 2), out="alpha")
        return m.exp(log_alpha(1.0 - s, self.beta_min, self.beta_max), out="alpha")

    def sigma(self, m: Maths, t: Any) -> Any:
        s = self._progress(t)
        if self.path == "linear":
            return t if self.noise_time else 1.0 - s
        if self.path == "gvp":
            return m.cos(s * (math.pi / 2), out="sigma")
        return m.sqrt(1.0 - m.exp(2.0 * log_alpha(1.0 - s, self.beta_min, self.beta_max)), out="sigma")

    def derivatives(self, m: Maths, t: Any) -> tuple[Any, Any]:
        way = self.data - self.first
        if self.path == "linear":
            return way, -way
        alpha, sigma = self.alpha(m, t), self.sigma(m, t)
        if self.path == "gvp":
            return (way * math.pi / 2) * sigma, (-way * math.pi / 2) * alpha
        growth = -way * d_log_alpha(1.0 - self._progress(t), self.beta_min, self.beta_max)
        return alpha * growth, -(alpha * alpha * growth / sigma)

    @property
    def first(self) -> float:
        return float(self.noise_time)

    @property
    def last(self) -> float:
        return 1.0 - self.noise_time

    @property
    def data(self) -> float:
        return self.last

    def draw(self) -> Draw:
        return Draw("u", "uniform" if self.times == "uniform" else "normal")

    def time_range(self, predicts: Prediction) -> tuple[float, float]:
        """Times drawn in training: away from where the prediction is singular."""
        if self.path == "vp":
            eps = 1e-5 if self.train_eps is None else self.train_eps
            return (eps, 1.0) if self.noise_time else (0.0, 1.0 - eps)
        singular = 0.0 if predicts == "flow_velocity" else 1e-3
        eps = singular if self.train_eps is None else self.train_eps
        return eps, 1.0 - eps

    def problems(self, spec: Spec) -> Iterator[Problem]:
        if self.path == "vp" and self.times == "log_normal":
            message = "path `vp` has no noise levels with a log-normal distribution"
            yield Problem(("times",), message, "use `uniform` or `logit_normal`")

    def training_time(self, m: Maths, draw: Any, predicts: Prediction) -> Any:
        start, stop = self.time_range(predicts)
        if self.times == "logit_normal":
            draw = m.sigmoid(m.affine(draw, self.logit_std, self.logit_mean), out="t")
        elif self.times == "log_normal":
            level = m.affine(draw, self.logit_std, self.logit_mean)
            if self.path == "linear":
                share = m.sigmoid(level, out="t")
            else:
                share = m.affine(m.atan(m.exp(level, out="level")), 2 / math.pi, 0.0, out="t")
            draw = share if self.noise_time else 1.0 - share
        return m.affine(draw, stop - start, start, out="t")
