"""Prediction of masked tokens in which visible ones count a little."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.objectives._common import mean_of_counted
from latentc.components.objectives.masked_token import MaskedToken
from latentc.components.parts import Fraction
from latentc.ir.builder import Builder, Var


class WeightedMaskedToken(MaskedToken):
    """A masked_token loss to which visible tokens contribute with a weight; the number of masked tokens is rounded to
    the nearest (TiTok, Yu et al. 2024, arXiv:2406.07550).
    """

    kind: Literal["weighted_masked_token"]  # type: ignore[assignment]
    visible: Literal[True] = Field(True, description="always true: visible tokens have `visible_weight`")
    independent: Literal[False] = Field(False, description="always false: an exact number of tokens is masked")
    visible_weight: Fraction = Field(0.1, description="weight of a visible token; a masked one has 1")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "weighted_masked_token", "smoothing": 0.1}

    def most(self, b: Builder, count: Var) -> Var:
        return b.floor(count + 0.5, out="most")

    def reduced(self, b: Builder, losses: Var, masked: Var) -> Var:
        weight = b.add(b.cast(masked, to="f32") * (1 - self.visible_weight), self.visible_weight, out="weight")
        return mean_of_counted(b, losses, weight)
