"""Variance-preserving processes given by the power of the signal: RIN's schedules."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.contract import Draw
from latentc.components.parts import Fraction, Problem, Spec
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
    start: float | None = Field(
        None, ge=-100, le=100, description="start of the segment, at the data end; null: -3 for sigmoid, 0 for cosine"
    )
    end: float | None = Field(
        None, ge=-100, le=100, description="end of the segment, at the noise end; null: 3 for sigmoid, 1 for cosine"
    )
    tau: float = Field(1.0, gt=0, le=100, description="sigmoid: temperature; cosine: half of the exponent")
    clip: tuple[Fraction, Fraction] = Field(
        (1e-9, 1.0 - 1e-4), description="bounds of gamma; `linear` uses only the first, `plain_cosine` neither"
    )
    ns: float = Field(0.0002, ge=0, lt=1, description="plain_cosine: shift of the time")
    ds: float = Field(0.00025, ge=0, lt=1, description="plain_cosine: stretch of the time")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "signal"}

    @property
    def curve_start(self) -> float:
        """Start of the segment of the curve."""
        return self.start if self.start is not None else -3.0 if self.schedule == "sigmoid" else 0.0

    @property
    def curve_end(self) -> float:
        """End of the segment of the curve."""
        return self.end if self.end is not None else 3.0 if self.schedule == "sigmoid" else 1.0

    @property
    def curve_top(self) -> float:
        return float(self._curve(NUMPY, self.curve_start))

    @property
    def curve_bottom(self) -> float:
        return float(self._curve(NUMPY, self.curve_end))

    @property
    def gamma_min(self) -> float:
        return self.clip[0]

    @property
    def gamma_max(self) -> float:
        return self.clip[1]

    def problems(self, spec: Spec) -> Iterator[Problem]:
        start, end = self.curve_start, self.curve_end
        if self.schedule == "cosine" and not (start < end and math.floor(start) >= math.ceil(end) - 1):
            message = f"the cosine does not fall all the way from {start:g} to {end:g}"
            yield Problem(("end" if self.start is None else "start",), message, "use a segment of [0, 1]")
        elif self.schedule == "sigmoid" and not self.curve_top > self.curve_bottom:
            message = f"the sigmoid does not fall from {start:g} to {end:g}"
            yield Problem(("end" if self.start is None else "start",), message, "use `start` < `end`, both near 0")
        if self.clip[0] >= self.clip[1]:
            yield Problem(("clip",), "no power is within these bounds", "give [low, high] with low < high")

    @property
    def first(self) -> float:
        return 1.0

    @property
    def last(self) -> float:
        return 0.0

    @property
    def data(self) -> None:
        return None

    def gamma(self, m: Maths, t: Any) -> Any:
        """Power of the signal, in float32 as in training: near the data, 1 - gamma has only a few digits."""
        if self.schedule == "plain_cosine":
            cosine = m.cos(m.affine(t, math.pi / 2 / (1 + self.ds), math.pi / 2 * self.ns / (1 + self.ds)))
            return m.single(cosine * cosine)
        if self.schedule == "linear":
            return m.clamp(1.0 - t, self.gamma_min, 1.0, out="gamma")
        curve = self._curve(m, m.affine(t, self.curve_end - self.curve_start, self.curve_start))
        height = self.curve_top - self.curve_bottom
        scaled = m.affine(curve, 1.0 / height, -self.curve_bottom / height)
        return m.single(m.clamp(scaled, self.gamma_min, self.gamma_max, out="gamma"))

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
