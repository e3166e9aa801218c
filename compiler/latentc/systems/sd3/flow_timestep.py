"""The time of a flow, from 0 to 1, as an embedding of sinusoids made for timesteps."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.conditions.timestep import Timestep
from latentc.ir.builder import Builder, Var


class FlowTimestep(Timestep):
    """Sinusoids of `scale` t through two linear layers with SiLU between them (Stable Diffusion 3, FLUX)."""

    kind: Literal["flow_timestep"]  # type: ignore[assignment]
    scale: float = Field(1000.0, gt=0, le=1e6, description="factor of the time")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "flow_timestep"}

    def features(self, b: Builder, t: Var, **static: Any) -> Var:
        return super().features(b, b.mul(t, self.scale, out="t"), **static)
