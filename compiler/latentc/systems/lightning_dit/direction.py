"""The direction of a prediction.

Symbols: B batch, C channels.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.objectives._alignment import misdirection
from latentc.components.objectives.denoising_terms._term import Denoised, DenoisingTerm
from latentc.ir.builder import Var


class Direction(DenoisingTerm):
    """1 - cosine of the prediction and its target, over the channel vector [C] at each position (LightningDiT, Yao et
    al. 2025, arXiv:2501.01423).
    """

    kind: Literal["direction"]
    weight: float = Field(1.0, gt=0, le=1_000, description="weight of the term")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "direction"}

    def value(self, denoised: Denoised) -> Var:
        return misdirection(denoised.b, denoised.estimate, denoised.at.truth)
