"""Guidance away from a network's prediction without its memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

from latentc.components.contract import Network
from latentc.components.guidance.guidance import Contrast, ContrastTerm
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import ModuleBuilder


class MemoryGuidance(ContrastTerm):
    """Adds (scale - 1) (p - q), with q from an empty memory and p from what the network carries between steps.

    This guides RIN's latents with a scale of their own, as in the code of coherence-aware diffusion (Dufour et al.
    2024, arXiv:2405.20324), where both p and q lack the conditions (`absent`) that classifier-free guidance drops.
    """

    SETTING: ClassVar[str] = "memory_guidance"
    INPUT: ClassVar[str] = "memory_scale"
    MEMORY: ClassVar[bool] = True

    kind: Literal["memory"]
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "memory", "scale": 1.5}

    def left_out(self, spec: Spec) -> tuple[frozenset[str], ...]:
        return (frozenset(self.absent),)

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from super().problems(spec)
        main = spec.networks.get("main")
        if main is None or not main.MEMORY:
            message = "the network has no memory between evaluations"
            yield Problem((), message, "use a network with memory, such as `rin`, or leave this guidance out")

    def direction(self, mb: ModuleBuilder, networks: Mapping[str, Network]) -> Contrast:
        absent = frozenset(self.absent)
        return Contrast(lambda e: (e(absent), e(absent, forgets=True)), self.channels)
