"""The base class of samplers, and classifier-free guidance."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING

from pydantic import Field

from latentc.components import Closed
from latentc.components.contract import (
    Need,
    Network,
    Program,
)
from latentc.components.parts import Fraction, Part
from latentc.ir.builder import ModuleBuilder

if TYPE_CHECKING:
    from latentc.spec.schema import Spec


class Guidance(Closed):
    """Classifier-free guidance (Ho and Salimans 2022): u + scale (c - u), c with the class and u without."""

    scale: float = Field(1.0, ge=0, description="default scale; 1 is no guidance. An input of the engine")
    interval: tuple[Fraction, Fraction] = Field(
        (0.0, 1.0),
        description="part of the way from noise (0) to data (1) where it acts (Kynkäänniemi et al. 2024)",
    )
    channels: int | None = Field(
        None, gt=0, description="guides only the first so many channels (3 in the DiT paper's code); null: all"
    )

    def acts(self, progress: float) -> bool:
        """Whether it guides an evaluation that far from noise (0) to data (1)."""
        low, high = self.interval
        return low <= progress <= high


class Sampler(Part):
    """How samples are drawn: adds a whole sampling program to the module."""

    guidance: Guidance | None

    def needs(self, spec: Spec) -> tuple[Need, ...]:
        """The networks it calls, and what they must be able to do."""
        return ()

    @abstractmethod
    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> Program:
        """Adds entry `sample` (named `sample.STEPS`), which calls the networks under their names (`main`)."""

    def programs(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> tuple[Program, ...]:
        """Adds all programs that it offers, the sampler first."""
        return (self.build(mb, networks, spec),)

    @abstractmethod
    def with_steps(self, steps: int) -> Sampler:
        """The same sampler with another number of steps."""
