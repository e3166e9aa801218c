"""Base class of terms that are added to the loss of a denoiser, and what they read.

Symbols: B batch.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import Field

from latentc.components.contract import Draw, Need, Network
from latentc.components.parts import Part
from latentc.ir.builder import Builder, Var
from latentc.ir.types import TensorType

if TYPE_CHECKING:
    from latentc.spec.schema import Spec


@dataclass
class Denoised:
    """One loss of a denoiser: what the network returned, and what it was to return.

    `target` is what `prediction` is compared with. `features` f32[B, T, C] are what the network returns besides in
    training. `time` f32[B] is what it was told, `networks` are those of the spec. `dropped` are masks bool[B] of the
    samples without a condition, one per condition that may be dropped.
    """

    b: Builder
    spec: Spec
    prediction: Var
    target: Var
    features: tuple[Var, ...]
    dropped: tuple[Var, ...]
    inputs: dict[str, Var]
    networks: Mapping[str, Network]
    time: Var

    def input(self, name: str, type: TensorType) -> Var:
        """An input of the loss, a data field or a draw; shared by all that ask for it."""
        if name not in self.inputs:
            self.inputs[name] = self.b.input(name, type)
        return self.inputs[name]


class DenoisingTerm(Part):
    """A term that is added to the loss of a denoiser."""

    weight: float = Field(description="weight of the term")

    @property
    def trains(self) -> tuple[str, ...]:
        """Further networks that it trains, unless they are frozen."""
        return ()

    def needs(self) -> tuple[Need, ...]:
        """What networks must return besides."""
        return ()

    @property
    def fields(self) -> tuple[str, ...]:
        """The data fields that it reads."""
        return ()

    def draws(self) -> tuple[Draw, ...]:
        """Its random inputs."""
        return ()

    @abstractmethod
    def value(self, denoised: Denoised) -> Var:
        """f32[B]: the term, before the factor."""


__all__ = ["Denoised", "DenoisingTerm"]
