"""Autoguidance: away from what a weaker network predicts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.contract import Need, Network
from latentc.components.guidance.guidance import (
    Contrast,
    GuidanceTerm,
    ScheduledGuidance,
    left_out_problems,
    settings_problems,
)
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import ModuleBuilder


class Autoguidance(ScheduledGuidance, GuidanceTerm):
    """Adds (scale - 1) (p - q), with q from a smaller or less trained network (Karras et al. 2024, arXiv:2406.02507).

    Both networks predict the same quantity of the same process. `without: [class]` also drops the class in q, as in
    EDM2 with an unconditional weaker network.
    """

    kind: Literal["autoguidance"]
    network: str = Field(description="one of `networks`: the weaker one")
    without: tuple[str, ...] = Field((), description="conditions left out of the weaker network's prediction")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "autoguidance", "network": "weak", "scale": 2.0}

    def needs(self) -> tuple[Need, ...]:
        return (Need(self.network, "denoise", place=("network",)),)

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from settings_problems(self, spec)
        yield from left_out_problems(self.without, "without", spec)
        if self.network == "main":
            message = "`main` cannot guide itself: autoguidance needs another, weaker network"
            yield Problem(("network",), message, "name another network, or use `kind: classifier_free`")

    def direction(self, mb: ModuleBuilder, networks: Mapping[str, Network]) -> Contrast:
        without, network = frozenset(self.without), networks[self.network]
        return Contrast(lambda e: (e(), e(without, network=network)), self.channels)
