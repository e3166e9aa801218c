"""Scores of an image, such as an aesthetic score, as sinusoids."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.condition import Form
from latentc.components.conditions.array import ArrayCondition
from latentc.components.conditions.timestep import Timestep
from latentc.components.parts import dense
from latentc.ir.builder import Builder, Var


class SinusoidalScore(ArrayCondition):
    """n scores per sample, each as `frequencies` sinusoids of `scale` times it, through a linear layer.

    A masked_mmdit takes the sinusoids without the layer, beside the vector of the text.
    """

    kind: Literal["sinusoidal_score"]
    frequencies: int = Field(256, gt=0, le=65_536, multiple_of=2, description="sinusoids of a score")
    scale: float = Field(100.0, gt=0, le=1e6, description="factor of a score")
    max_period: float = Field(1000.0, gt=1, description="longest period, in units of the scaled score")
    FORMS: ClassVar[tuple[Form, ...]] = ("vector", "tokens")
    RANKS: ClassVar[tuple[int, ...]] = (1,)
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "sinusoidal_score"}

    def features(self, b: Builder, scores: Var, out: str) -> Var:
        """The sinusoids f32[B, n F] of scores f32[B, n]."""
        batch, count = scores.shape
        each = b.reshape(b.mul(scores, self.scale, out=out), shape=(batch * count,), out=out)
        sines = Timestep(kind="timestep", frequencies=self.frequencies, max_period=self.max_period, sines_first=True)
        made = sines.features(b, each, **sines.static())
        return b.reshape(made, shape=(batch, count * self.frequencies), out=out)

    def vector(
        self, b: Builder, prefix: str, name: str, operands: tuple[Var, ...], width: Any, sizes: Mapping[str, Any]
    ) -> Var:
        return dense(b, prefix, self.features(b, operands[0], name), width, True, "normal", out=name)
