"""The time as sinusoids, as DDPM and Diffusion Policy write it."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.condition import TimeEmbedding
from latentc.ir.builder import Builder, Var, module_class


class Sinusoidal(TimeEmbedding):
    """Sines, then cosines of t through two linear layers with Mish between them (Diffusion Policy, DP3).

    Periods run from 2 pi to 2 pi `max_period`, inclusive; there are as many sinusoids as the network has channels.
    """

    kind: Literal["sinusoidal"]
    max_period: float = Field(10000.0, gt=1, description="longest period, in units of t / 2 pi")
    ratio: int = Field(4, gt=0, le=1_024, description="hidden width, as a multiple of the embedding's")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "sinusoidal"}

    def vector(self, b: Builder, name: str, t: Var, width: Any) -> Var:
        return b.sub(name, sinusoidal_embedding, t, dim=width, hidden=self.ratio * width, max_period=self.max_period)


@module_class("SinusoidalEmbedding")
def sinusoidal_embedding(b: Builder, t: Var, *, dim: int, hidden: int, max_period: float) -> Var:
    """Embeds times: sinusoids, then two linear layers."""
    half = int(dim) // 2
    # `timestep_embedding` has frequencies max_period^(-i / half); here the last one is 1 / max_period.
    x = b.timestep_embedding(t, dim=dim, max_period=max_period ** (half / (half - 1)), out="x")
    cosines, sines = b.split(x, axis=1, sizes=(dim // 2, dim // 2), out="cosines sines")
    x = b.reshape(b.concat(sines, cosines, axis=1), shape=(t.shape[0], dim), out="x")
    return b.dense("fc2", b.mish(b.dense("fc1", x, hidden)), dim)
