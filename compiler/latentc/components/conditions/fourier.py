"""The time as an embedding of random Fourier features."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.condition import TimeFeatures
from latentc.ir.builder import Builder, Var, f32


class Fourier(TimeFeatures):
    """Cosines and sines of t at random frequencies (Tancik et al. 2020; NCSN++)."""

    kind: Literal["fourier"]
    frequencies: int = Field(
        256, gt=0, le=65_536, multiple_of=2, description="size of the embedding: two features per frequency"
    )
    scale: float = Field(16.0, gt=0, description="standard deviation of the frequencies")
    sines_first: bool = Field(False, description="sines before cosines")
    DRAWN: ClassVar[bool] = True
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "fourier"}

    def static(self) -> dict[str, Any]:
        return {"frequencies": self.frequencies}

    def features(self, b: Builder, t: Var, **static: Any) -> Var:
        count, kind = f32(static["frequencies"] // 2), "state" if self.DRAWN else "weight"
        frequencies = b.param("frequencies", count, "normal", kind, std=self.scale)
        column = b.reshape(t, shape=(t.shape[0], 1))
        angles = b.mul(column, b.mul(frequencies, 2 * math.pi), out="angles")
        parts = (b.sin(angles), b.cos(angles)) if self.sines_first else (b.cos(angles), b.sin(angles))
        return b.concat(*parts, axis=1, out="x")
