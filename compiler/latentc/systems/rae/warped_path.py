"""A straight path whose training times move to the noise as data grows."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.contract import Draw
from latentc.components.processes.formulas import Maths
from latentc.components.processes.interpolant import Interpolant
from latentc.components.processes.prediction import Prediction


class WarpedPath(Interpolant):
    """The straight path, usually with time 1 at the noise (RAE, Zheng et al. 2025, arXiv:2510.11690, after Esser et al.
    2024).

    Training times are logit-normal. A distance t from the data, at most `most`, becomes shift t / (1 + (shift - 1) t),
    with `shift` the root of the data's size over 4096.
    """

    kind: Literal["warped_path"]  # type: ignore[assignment]
    path: Literal["linear"] = Field("linear", description="the straight path")
    noise_time: Literal[0, 1] = Field(1, description="time at the noise end")
    times: Literal["logit_normal"] = Field("logit_normal", description="distribution of times before the shift")
    shift: float = Field(1.0, gt=0, le=1_000, description="above 1: more training near the noise")
    most: float = Field(0.999, gt=0, lt=1, description="largest distance from the data before the shift")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "warped_path", "shift": 3.0}

    def draw(self) -> Draw:
        way = math.log(self.most / (1.0 - self.most))
        end = NormalDist(self.logit_mean, self.logit_std).cdf(way if self.noise_time else -way)
        quantiles = {"low": 0.0, "high": end} if self.noise_time else {"low": end, "high": 1.0}
        return Draw("u", "normal_between", {"mean": self.logit_mean, "std": self.logit_std, **quantiles})

    def training_time(self, m: Maths, draw: Any, predicts: Prediction) -> Any:
        start, stop = self.time_range(predicts)
        t = m.sigmoid(draw, out="t")
        left = t if self.noise_time else 1.0 - t
        left = self.shift * left / (1.0 + (self.shift - 1.0) * left)
        t = left if self.noise_time else 1.0 - left
        return m.affine(t, stop - start, start, out="t")
