"""The time as cosines of random frequencies and phases."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.condition import TimeFeatures
from latentc.ir.builder import Builder, Var, f32


class PhasedFourier(TimeFeatures):
    """sqrt(2) cos(w t + p) at random frequencies w and phases p, which are not trained: features of unit mean square
    (Karras et al. 2024, arXiv:2312.02696, equation 75)."""

    kind: Literal["phased_fourier"]
    frequencies: int = Field(256, gt=0, le=65_536, multiple_of=2, description="number of features")
    bandwidth: float = Field(1.0, gt=0, description="standard deviation of the frequencies, in cycles per unit of t")
    DRAWN: ClassVar[bool] = True
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "phased_fourier"}

    def static(self) -> dict[str, Any]:
        return {"frequencies": self.frequencies}

    def features(self, b: Builder, t: Var, **static: Any) -> Var:
        count = f32(static["frequencies"])
        frequencies = b.param("frequencies", count, "normal", "state", std=2 * math.pi * self.bandwidth)
        phases = b.param("phases", count, "uniform", "state", bound=math.pi)
        angles = b.mul(b.reshape(t, shape=(t.shape[0], 1)), frequencies) + phases
        return b.mul(b.cos(angles), math.sqrt(2), out="x")
