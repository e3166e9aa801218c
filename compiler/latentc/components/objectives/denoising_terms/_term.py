"""Base class of terms that are added to the loss of a denoiser, and the evaluation that they read.

Symbols: B batch.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import Field

from latentc.components.contract import Draw, Need, Network
from latentc.components.kit import first_channels
from latentc.components.parts import Part
from latentc.ir.builder import Builder, Var
from latentc.ir.types import TensorType

if TYPE_CHECKING:
    from latentc.components.objectives.denoising import Noised


@dataclass
class Denoised:
    """A denoiser's evaluation in training: noised data `at`, the prediction there, and further `features` f32[B, T, C].

    `dropped`: masks bool[B] of the samples without a condition, one per condition that may be dropped. `inputs` of the
    loss are those that terms and weights read, `batch` all fields of the data that it takes, `draws` its random inputs.
    """

    b: Builder
    networks: Mapping[str, Network]
    at: Noised
    prediction: Var
    features: tuple[Var, ...]
    dropped: tuple[Var, ...]
    inputs: dict[str, Var]
    batch: tuple[str, ...]
    draws: tuple[Draw, ...]

    @property
    def estimate(self) -> Var:
        """The prediction in the shape of its target: without the channels of a learned variance."""
        return first_channels(self.b, self.prediction, self.at.truth)

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
        """Further outputs that it needs of networks."""
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
