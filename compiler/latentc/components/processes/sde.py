"""Song et al.'s stochastic differential equations (2021, arXiv:2011.13456): VP, sub-VP and VE; time 1 is noise."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from latentc.components.contract import Draw
from latentc.components.processes.formulas import Maths
from latentc.components.processes.prediction import Prediction
from latentc.components.processes.process import Defaults, Prior, Process


def log_alpha(t: Any, beta_min: float, beta_max: float) -> Any:
    """log alpha of the VP and sub-VP SDE at time t from the data (equation 29)."""
    return -0.25 * (beta_max - beta_min) * t * t - 0.5 * beta_min * t


def d_log_alpha(t: Any, beta_min: float, beta_max: float) -> Any:
    """Its derivative by t."""
    return -0.5 * (beta_max - beta_min) * t - 0.5 * beta_min


def vp_rates(low: float, high: float, eps: float) -> tuple[float, float]:
    """(beta_min, beta_max) of the VP SDE whose noise levels at times `eps` and 1 are `low` and `high` (EDM's code)."""
    spread = 2 * (math.log1p(low**2) / eps - math.log1p(high**2)) / (eps - 1)
    least = math.log1p(high**2) - spread / 2
    return least, least + spread


class Sde(Process):
    """A process of continuous time from the data (0) to the noise (1)."""

    eps: float = Field(1e-3, gt=0, lt=0.5, description="smallest time at which sampling evaluates the network")
    train_eps: float = Field(1e-5, gt=0, lt=0.5, description="smallest training time")

    @property
    def first(self) -> float:
        return 1.0

    @property
    def last(self) -> float:
        return self.eps

    @property
    def data(self) -> float:
        return 0.0

    def draw(self) -> Draw:
        return Draw("u", "uniform")

    def training_time(self, m: Maths, draw: Any, predicts: Prediction) -> Any:
        return m.affine(draw, 1.0 - self.train_eps, self.train_eps, out="t")


class Preserving(Sde):
    """An SDE on which the data fades at rates beta_min to beta_max."""

    beta_min: float = Field(0.1, gt=0, description="noise rate at the data end")
    beta_max: float = Field(20.0, gt=0, description="noise rate at the noise end")
    times: Literal["uniform", "log_snr"] = Field(
        "uniform",
        description="distribution of training times: uniform, or such that log(alpha^2 / sigma^2) is uniform, which "
        "is importance sampling for a likelihood weighting (Song et al. 2021, arXiv:2101.09258)",
    )

    def alpha(self, m: Maths, t: Any) -> Any:
        return m.exp(log_alpha(t, self.beta_min, self.beta_max), out="alpha")

    def training_time(self, m: Maths, draw: Any, predicts: Prediction) -> Any:
        if self.times == "uniform":
            return super().training_time(m, draw, predicts)
        low, high = self._log_levels
        faded = self.faded(m, m.exp(m.affine(draw, high - low, low), out="level"))  # -2 log(alpha)
        spread, least = self.beta_max - self.beta_min, self.beta_min
        if not spread:
            return m.affine(faded, 1 / least, 0.0, out="t")
        return m.affine(m.sqrt(m.affine(faded, 2 * spread, least**2)), 1 / spread, -least / spread, out="t")

    @abstractmethod
    def faded(self, m: Maths, level: Any) -> Any:
        """-2 log(alpha) where sigma / alpha is `level`."""

    @property
    def _log_levels(self) -> tuple[float, float]:
        """log(sigma / alpha) at the least and the greatest time drawn in training."""
        low, high = np.log(self.point([self.train_eps, 1.0]).level)
        return float(low), float(high)

    @property
    def importance(self) -> float | None:
        """Mean of g^2 / sigma^2 over its times, if training draws them in proportion to that; else None."""
        if self.times == "uniform":
            return None
        low, high = self._log_levels
        return 2 * (high - low) / (1 - self.train_eps)


class Vp(Preserving):
    """The variance-preserving SDE; predicting the noise on it is EDM's VP preconditioning."""

    kind: Literal["vp"]
    time_scale: float = Field(999.0, gt=0, description="factor of the network's time input")
    time_input: Literal["time", "log_snr"] = Field(
        "time", description="time input of the network: the time times `time_scale`, or log(alpha^2 / sigma^2)"
    )
    prior: Prior = Field(
        "standard", description="standard deviation at the start of sampling: 1, or sigma(1) (marginal: EDM)"
    )
    DEFAULTS: ClassVar[Defaults] = Defaults(tried=("karras", "log_snr"))
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "vp"}

    def faded(self, m: Maths, level: Any) -> Any:
        return m.log(level * level + 1.0, out="faded")

    def sigma(self, m: Maths, t: Any) -> Any:
        return m.sqrt(1.0 - m.exp(2.0 * log_alpha(t, self.beta_min, self.beta_max)), out="sigma")

    def derivatives(self, m: Maths, t: Any) -> tuple[Any, Any]:
        alpha, rate = self.alpha(m, t), d_log_alpha(t, self.beta_min, self.beta_max)
        return alpha * rate, -(alpha * alpha * rate / self.sigma(m, t))

    def network_time(self, m: Maths, t: Any) -> Any:
        if self.time_input == "log_snr":
            signal = 2.0 * log_alpha(t, self.beta_min, self.beta_max)
            return signal - m.log(1.0 - m.exp(signal), out="log_noise")
        return m.affine(t, self.time_scale, 0.0, out="time")

    def prior_scale(self, t: float) -> float:
        return 1.0 if self.prior == "standard" else float(self.point(t).sigma)


class SubVp(Preserving):
    """The sub-VP SDE: VP's alpha with less noise, sigma = 1 - alpha^2."""

    kind: Literal["sub_vp"]
    time_scale: float = Field(999.0, gt=0, description="factor of the network's time input")
    DEFAULTS: ClassVar[Defaults] = Defaults(tried=("karras", "log_snr"))
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "sub_vp"}

    def faded(self, m: Maths, level: Any) -> Any:
        # alpha is the positive root of alpha^2 + level alpha = 1
        return 2.0 * m.log((level + m.sqrt(level * level + 4.0)) * 0.5, out="faded")

    def sigma(self, m: Maths, t: Any) -> Any:
        return 1.0 - m.exp(2.0 * log_alpha(t, self.beta_min, self.beta_max))

    def derivatives(self, m: Maths, t: Any) -> tuple[Any, Any]:
        alpha, rate = self.alpha(m, t), d_log_alpha(t, self.beta_min, self.beta_max)
        return alpha * rate, -2.0 * rate * alpha * alpha

    def network_time(self, m: Maths, t: Any) -> Any:
        return m.affine(t, self.time_scale, 0.0, out="time")


class Ve(Sde):
    """The variance-exploding SDE: sigma grows geometrically, the data is not scaled.

    Predicting the `scaled_score` on it is EDM's VE preconditioning.
    """

    kind: Literal["ve"]
    sigma_min: float = Field(0.02, gt=0, description="noise level at time 0 (Song et al.: 0.01)")
    sigma_max: float = Field(100.0, gt=0, description="noise level at time 1 (Song et al.: 50)")
    time_input: Literal["log_half_sigma", "log_sigma", "sigma"] = Field(
        "log_half_sigma",
        description="time input of the network: log(sigma / 2) (EDM), log(sigma) (Song et al.) or sigma",
    )
    eps: float = Field(0.0, ge=0, lt=0.5, description="smallest time at which sampling evaluates the network")
    train_eps: float = Field(0.0, ge=0, lt=0.5, description="smallest training time (Song et al.: 1e-5)")
    DEFAULTS: ClassVar[Defaults] = Defaults(tried=("karras",))
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "ve"}

    def alpha(self, m: Maths, t: Any) -> Any:
        return 1.0

    def sigma(self, m: Maths, t: Any) -> Any:
        return m.exp(m.affine(t, self._rate, math.log(self.sigma_min)), out="sigma")

    def derivatives(self, m: Maths, t: Any) -> tuple[Any, Any]:
        return 0.0, self._rate * self.sigma(m, t)

    @property
    def _rate(self) -> float:
        return math.log(self.sigma_max / self.sigma_min)

    @property
    def data(self) -> float:
        return -math.inf

    def network_time(self, m: Maths, t: Any) -> Any:
        if self.time_input == "sigma":
            return self.sigma(m, t)
        least = self.sigma_min / 2 if self.time_input == "log_half_sigma" else self.sigma_min
        return m.affine(t, self._rate, math.log(least), out="time")

    def prior_scale(self, t: float) -> float:
        return float(self.point(t).sigma)
