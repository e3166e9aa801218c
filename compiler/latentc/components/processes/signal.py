"""Variance-preserving processes given by the power of the signal: RIN's schedules."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.contract import Draw
from latentc.components.processes.formulas import NUMPY, Maths
from latentc.components.processes.prediction import Prediction
from latentc.components.processes.process import Process


class Signal(Process):
    """alpha = sqrt(gamma), sigma = sqrt(1 - gamma), with time from the data (0) to the noise (1). gamma is a segment of
    a curve, scaled to run from 1 to 0 (Chen 2023, arXiv:2301.10972): `sigmoid` and `cosine` from `start` to `end`,
    or the straight line; `plain_cosine` is cos(pi / 2 (t + ns) / (1 + ds))^2 (Chen et al. 2022, arXiv:2208.04202).
    The network takes gamma. Sampling ends at time 0, even if gamma is clamped there.
    """

    kind: Literal["signal"]
    schedule: Literal["sigmoid", "cosine", "linear", "plain_cosine"] = Field(
        "sigmoid", description="shape of the curve"
    )
    start: float = Field(-3.0, ge=-100, le=100, description="sigmoid, cosine: start of the segment, at the data end")
    end: float = Field(3.0, ge=-100, le=100, description="sigmoid, cosine: end of the segment, at the noise end")
    tau: float = Field(1.0, gt=0, le=100, description="sigmoid: temperature; cosine: half of the exponent")
    clip: tuple[float, float] = Field(
        (1e-9, 1.0 - 1e-4), description="bounds of gamma; `linear` uses only the first, `plain_cosine` neither"
    )
    ns: float = Field(0.0002, ge=0, lt=1, description="plain_cosine: shift of the time")
    ds: float = Field(0.00025, ge=0, lt=1, description="plain_cosine: stretch of the time")
    CLOSES: ClassVar[bool] = False
    TRIED: ClassVar[tuple[str, ...]] = ()
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "signal"}

    @property
    def first(self) -> float:
        return 1.0

    @property
    def last(self) -> float:
        return 0.0

    @property
    def data(self) -> float:
        return -1.0  # never reached

    def gamma(self, m: Maths, t: Any) -> Any:
        """Power of the signal, in float32 as in training: near the data, 1 - gamma has only a few digits."""
        if self.schedule == "plain_cosine":
            cosine = m.cos(m.affine(t, math.pi / 2 / (1 + self.ds), math.pi / 2 * self.ns / (1 + self.ds)))
            return m.single(cosine * cosine)
        if self.schedule == "linear":
            return m.clamp(1.0 - t, self.clip[0], 1.0, out="gamma")
        first, last = (float(self._curve(NUMPY, x)) for x in (self.start, self.end))
        curve = self._curve(m, m.affine(t, self.end - self.start, self.start))
        scaled = m.affine(curve, 1.0 / (first - last), -last / (first - last))
        return m.single(m.clamp(scaled, *self.clip, out="gamma"))

    def _curve(self, m: Maths, x: Any) -> Any:
        if self.schedule == "sigmoid":
            return 1.0 / (1.0 + m.exp(x * (1.0 / self.tau)))  # falls from the data to the noise
        cosine = m.cos(x * (math.pi / 2))
        return cosine * cosine if self.tau == 1.0 else m.exp(m.log(cosine) * (2.0 * self.tau))

    def alpha(self, m: Maths, t: Any) -> Any:
        return m.sqrt(self.gamma(m, t), out="alpha")

    def sigma(self, m: Maths, t: Any) -> Any:
        return m.sqrt(1.0 - self.gamma(m, t), out="sigma")

    def network_time(self, m: Maths, t: Any) -> Any:
        return self.gamma(m, t)

    def draw(self) -> Draw:
        return Draw("u", "uniform")

    def training_time(self, m: Maths, draw: Any, predicts: Prediction) -> Any:
        return draw


__all__ = ["Signal"]
