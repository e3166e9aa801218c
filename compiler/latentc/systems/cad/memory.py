"""Guidance away from a network's prediction without its memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from latentc.components.contract import Network
from latentc.components.guidance.guidance import (
    Contrast,
    GuidanceTerm,
    ScheduledGuidance,
    left_out_problems,
    settings_problems,
)
from latentc.components.parts import Problem
from latentc.ir.builder import ModuleBuilder

if TYPE_CHECKING:
    from latentc.spec.schema import Spec


class MemoryGuidance(ScheduledGuidance, GuidanceTerm):
    """Adds (scale - 1) (p - q), with q from an empty memory and p from what the network carries between steps.

    This guides RIN's latents with a scale of their own, as in the code of coherence-aware diffusion (Dufour et al.
    2024, arXiv:2405.20324), where both p and q lack the conditions (`absent`) that classifier-free guidance drops.
    """

    SETTING: ClassVar[str] = "memory_guidance"
    INPUT: ClassVar[str] = "memory_scale"
    MEMORY: ClassVar[bool] = True

    kind: Literal["memory"]
    absent: tuple[str, ...] = Field((), description="conditions left out of both p and q")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "memory", "scale": 1.5}

    @property
    def runs(self) -> int:
        return 2 if self.absent else 1

    def left_out(self, spec: Spec) -> tuple[frozenset[str], ...]:
        return (frozenset(self.absent),)

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from settings_problems(self, spec)
        yield from left_out_problems(self.absent, "absent", spec)
        main = spec.networks.get("main")
        if main is None or not main.MEMORY:
            message = "the network has no memory between evaluations"
            yield Problem((), message, "use a network with memory, such as `rin`, or leave this guidance out")

    def direction(self, mb: ModuleBuilder, networks: Mapping[str, Network]) -> Contrast:
        absent = frozenset(self.absent)
        return Contrast(lambda e: (e(absent), e(absent, forgets=True)), self.channels)
