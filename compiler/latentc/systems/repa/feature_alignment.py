"""Alignment of a network's features with those of another.

Symbols: B batch, T tokens, C channels.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.contract import Need
from latentc.components.objectives._alignment import feature_problems, mean_cosine
from latentc.components.objectives.denoising_terms._term import Denoised, DenoisingTerm
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import Var


class FeatureAlignment(DenoisingTerm):
    """Aligns projected features with those of a frozen encoder, by the cosine of each token (REPA, Yu et al. 2024,
    arXiv:2410.06940).

    The encoder's features [T, C] are data fields, one per projection of `backbone.alignment`.
    """

    kind: Literal["feature_alignment"]
    weight: float = Field(0.5, gt=0, description="weight of the term")
    features: tuple[str, ...] = Field(
        ("features",), min_length=1, max_length=16, description="data fields of the encoders' features"
    )
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "feature_alignment"}

    @property
    def fields(self) -> tuple[str, ...]:
        return self.features

    def needs(self) -> tuple[Need, ...]:
        return (Need("main", "denoise", ("features",)),)

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from feature_problems(spec, self.features)

    def value(self, denoised: Denoised) -> Var:
        b = denoised.b
        total = None
        for name, ours in zip(self.features, denoised.features, strict=True):
            cosine = mean_cosine(b, denoised.inputs[name], ours)
            total = cosine if total is None else b.op("add", total, cosine, out="cosine")
        return b.op("mul", -1.0 / len(self.features), total, out="alignment")
