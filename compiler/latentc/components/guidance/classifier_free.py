"""Classifier-free guidance of a denoising sampler, also of some of several conditions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.contract import Network
from latentc.components.guidance.guidance import (
    Contrast,
    ContrastTerm,
    guidance_problems,
    left_out_problems,
    of_conditions,
)
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import ModuleBuilder


class ClassifierFree(ContrastTerm):
    """Adds (scale - 1) (c - u), with c the prediction with the conditions and u without (Ho and Salimans 2022,
    arXiv:2207.12598). Several terms give each condition its own scale: InstructPix2Pix (Brooks et al. 2023,
    arXiv:2211.09800) has `{without: [text]}` and `{without: [image], absent: [text]}`.
    """

    OF_CONDITIONS: ClassVar[bool] = True
    MEMORY: ClassVar[bool] = True

    kind: Literal["classifier_free"]
    without: tuple[str, ...] | None = Field(
        None, min_length=1, description="conditions left out of u; null: all that training drops"
    )
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "classifier_free", "scale": 2.0, "schedule": "cosine"}

    def left_out(self, spec: Spec) -> tuple[frozenset[str], ...]:
        nullable = (name for name, condition in spec.conditions.items() if condition.nullable)
        absent = frozenset(self.absent)
        return absent, absent | frozenset(nullable if self.without is None else self.without)

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from guidance_problems(self, spec)
        yield from left_out_problems(self.without or (), "without", spec)
        yield from left_out_problems(self.absent, "absent", spec)
        for i, name in enumerate(self.without or ()):
            if name in self.absent:
                yield Problem(("without", i), f"`{name}` is left out of both predictions", "keep it in only one list")

    def direction(self, mb: ModuleBuilder, networks: Mapping[str, Network]) -> Contrast:
        return of_conditions(self.without, self.absent, self.channels)
