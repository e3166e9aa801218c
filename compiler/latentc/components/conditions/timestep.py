"""The time as an embedding."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.parts import TimeEmbedding
from latentc.ir.builder import Builder, Var, module_class


class Timestep(TimeEmbedding):
    """Sinusoids of t through two linear layers with SiLU between them (DDPM, ADM, DiT)."""

    kind: Literal["timestep"]
    frequencies: int = Field(256, gt=0, multiple_of=2, description="size of the sinusoidal embedding")
    max_period: float = Field(10000.0, gt=1, description="longest period, in units of t")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "timestep"}

    def vector(self, b: Builder, name: str, t: Var, width: Any) -> Var:
        return b.sub(  # type: ignore[no-any-return]
            name, timestep_embedder, t, dim=width, frequencies=self.frequencies, max_period=self.max_period
        )


@module_class("TimestepEmbedder")
def timestep_embedder(b: Builder, t: Var, *, dim: int, frequencies: int, max_period: float) -> Var:
    """Embeds times: sinusoids, then two linear layers."""
    x = b.timestep_embedding(t, dim=frequencies, max_period=max_period, out="x")
    x = b.silu(b.dense("fc1", x, dim, init="normal", std=0.02), out="x")
    return b.dense("fc2", x, dim, init="normal", std=0.02)
