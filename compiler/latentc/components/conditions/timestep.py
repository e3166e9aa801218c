"""The time as an embedding of sinusoids."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from latentc.components.condition import TimeFeatures
from latentc.ir.builder import Builder, Var


class Timestep(TimeFeatures):
    """Sinusoids of t through two linear layers with SiLU between them (DDPM, ADM, DiT)."""

    kind: Literal["timestep"]
    frequencies: int = Field(256, gt=0, le=65_536, multiple_of=2, description="size of the sinusoidal embedding")
    max_period: float = Field(10000.0, gt=1, description="longest period, in units of t")
    endpoint: bool = Field(
        False, description="the longest period is reached exactly (DDPM) instead of only approached (ADM)"
    )
    sines_first: bool = Field(False, description="sines before cosines (DDPM)")

    @model_validator(mode="after")
    def _two_ends(self) -> Self:
        if self.endpoint and self.frequencies < 4:
            raise ValueError("`endpoint` needs `frequencies` of 4 or more")
        return self

    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "timestep"}

    def static(self) -> dict[str, Any]:
        return {"frequencies": self.frequencies, "max_period": self.max_period}

    def features(self, b: Builder, t: Var, **static: Any) -> Var:
        dim, endpoint = static["frequencies"], {"endpoint": True} if self.endpoint else {}
        x = b.timestep_embedding(t, dim=dim, max_period=static["max_period"], **endpoint, out="x")
        if not self.sines_first:
            return x
        half = dim // 2
        cosines, sines = b.split(x, axis=1, sizes=(half, half), out="cosines sines")
        return b.concat(sines, cosines, axis=1, out="x")
