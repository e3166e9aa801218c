"""The direction of a prediction.

Symbols: B batch, C channels.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.kit import per_sample_mean
from latentc.components.objectives.denoising_terms._term import Denoised, DenoisingTerm
from latentc.ir.builder import Builder, Var

LEAST = 1e-8
"""Least length that vectors are divided by."""


class Direction(DenoisingTerm):
    """1 - cosine of the prediction and its target, over the channel vector [C] at each position (LightningDiT, Yao et
    al. 2025, arXiv:2501.01423).
    """

    kind: Literal["direction"]
    weight: float = Field(1.0, gt=0, le=1_000, description="weight of the term")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "direction"}

    def value(self, denoised: Denoised) -> Var:
        b, x, y = denoised.b, denoised.estimate, denoised.at.truth
        lengths = _length(b, x, "length") * _length(b, y, "target_length")
        cosine = b.div(b.sum(x * y, axes=(1,), keepdims=True), lengths, out="cosine")
        return per_sample_mean(b, 1.0 - cosine, out="direction")


def _length(b: Builder, x: Var, out: str) -> Var:
    # Bounded inside the root, which has no derivative at 0, where networks predict when training starts.
    return b.sqrt(b.maximum(b.sum(x * x, axes=(1,), keepdims=True), LEAST**2), out=out)
