"""The time as an embedding."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.parts import Part
from latentc.ir.builder import Builder, Var, module_class


class Timestep(Part):
    """Sinusoids of t through two linear layers with SiLU between them (DDPM, ADM, DiT)."""

    kind: Literal["timestep"]
    frequencies: int = Field(256, gt=0, multiple_of=2, description="size of the sinusoidal embedding")
    max_period: float = Field(10000.0, gt=1, description="longest period, in units of t")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "timestep"}

    def apply(self, b: Builder, name: str, t: Var, dim: int) -> Var:
        """t f32[B] -> f32[B, dim]."""
        max_period = self.max_period

        embedder = b.sub(name, timestep_embedder, t, dim=dim, frequencies=self.frequencies, max_period=max_period)
        return embedder  # type: ignore[no-any-return]


@module_class("TimestepEmbedder")
def timestep_embedder(b: Builder, t: Var, *, dim: int, frequencies: int, max_period: float) -> Var:
    """Embeds times: sinusoids, then two linear layers."""
    x = b.timestep_embedding(t, dim=frequencies, max_period=max_period, out="x")
    x = b.silu(b.dense("fc1", x, dim, init="normal", std=0.02), out="x")
    return b.dense("fc2", x, dim, init="normal", std=0.02)
