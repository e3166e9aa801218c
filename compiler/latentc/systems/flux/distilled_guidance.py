"""The guidance scale as an input of FLUX.1 dev."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.condition import Form
from latentc.components.conditions.guidance_scale import GuidanceScale
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import Builder, Var, module_class


class DistilledGuidance(GuidanceScale):
    """The scale that a distilled network imitates: 1000 times it as sinusoids, through two linear layers.

    Any denoising objective may train it further: it draws the scale uniformly from `range`.
    """

    kind: Literal["distilled_guidance"]  # type: ignore[assignment]
    range: tuple[float, float] = Field((1.0, 5.0), description="smallest and largest scale")
    default: float = Field(3.5, description="default scale for requests")
    FORMS: ClassVar[tuple[Form, ...]] = ("vector",)
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "distilled_guidance"}

    def problems_of_objective(self, spec: Spec) -> Iterator[Problem]:
        yield from ()

    def vector(
        self, b: Builder, prefix: str, name: str, operands: tuple[Var, ...], width: Any, sizes: Mapping[str, Any]
    ) -> Var:
        return b.sub(prefix, _embedder, operands[0], dim=width, frequencies=self.frequencies)


@module_class("GuidanceEmbedder")
def _embedder(b: Builder, scale: Var, *, dim: int, frequencies: int) -> Var:
    """Embeds guidance scales: sinusoids, then two linear layers."""
    x = b.timestep_embedding(scale * 1000.0, dim=frequencies, max_period=10000.0, out="x")
    x = b.silu(b.dense("fc1", x, dim, init="normal", std=0.02), out="x")
    return b.dense("fc2", x, dim, init="normal", std=0.02)
