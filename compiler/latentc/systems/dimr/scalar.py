"""The time as the number it is."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.condition import TimeFeatures
from latentc.ir.builder import Builder, Var


class Scalar(TimeFeatures):
    """scale t + shift, a single number, for networks whose parameters depend on the time directly (DiMR)."""

    kind: Literal["scalar"]
    scale: float = Field(1.0, description="factor of the time")
    shift: float = Field(0.0, description="added to the scaled time")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "scalar", "scale": 0.001}

    def static(self) -> dict[str, Any]:
        return {"frequencies": 1}

    def features(self, b: Builder, t: Var, **static: Any) -> Var:
        scaled = t if self.scale == 1.0 else t * self.scale
        scaled = scaled if self.shift == 0.0 else scaled + self.shift
        return b.reshape(scaled, shape=(t.shape[0], 1), out="t")
