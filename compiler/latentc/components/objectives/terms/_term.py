"""Base class of adversarial terms, and the values of an update that they read.

Symbols: B batch, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from latentc.components.contract import Draw, Network
from latentc.components.kit import Operands
from latentc.components.parts import Part, Problem
from latentc.ir.builder import Builder, Var
from latentc.ir.types import TensorType

if TYPE_CHECKING:
    from latentc.spec.schema import Spec


@dataclass
class Side:
    """Images of one kind (data or samples): what the discriminator is told of them, and its outputs by name."""

    images: Var
    told: Operands
    labels: Var | None = None  # i64[B]
    outputs: dict[str, Var] = field(default_factory=dict)


@dataclass
class Round:
    """One update: `real` is None in the generator's."""

    b: Builder
    discriminator: Network
    fake: Side
    real: Side | None = None
    classes: int = 0
    draws: dict[str, Var] = field(default_factory=dict)

    def draw(self, name: str, type: TensorType) -> Var:
        """A random input of the loss; terms that name it alike share it."""
        if name not in self.draws:
            self.draws[name] = self.b.input(name, type)
        return self.draws[name]


class Term(Part):
    """A term of the adversarial objective."""

    weight: float = Field(1.0, gt=0, description="factor of the term")
    READS: ClassVar[tuple[str, ...]] = ("score",)
    """The outputs of the discriminator that it reads."""
    CLASSIFIES: ClassVar[bool] = False
    """Whether it needs the class of each image."""
    REACHES_GENERATOR: ClassVar[bool] = True
    """Whether it contributes to the generator's loss."""

    @property
    def generator_factor(self) -> float:
        """Its factor in the loss of the generator."""
        return self.weight

    def problems(self, spec: Spec) -> Iterator[Problem]:
        if self.CLASSIFIES and ("class" not in spec.conditions or not spec.data.classes):
            message = f"`{self.kind}` needs the class of each image"
            yield Problem((), message, "add `data.classes` and `conditioning.class: {kind: label, dropout: 0}`")

    def draws(self) -> tuple[Draw, ...]:
        """Its random inputs, which the loss of the discriminator takes."""
        return ()

    def of_discriminator(self, round: Round) -> Var | None:
        """f32[]: its part in the loss of the discriminator, before the factor; None if it has none."""
        return None

    def of_generator(self, round: Round) -> Var | None:
        """f32[]: its part in the loss of the generator, before the factor; None if it has none."""
        return None

    def metrics(self, round: Round) -> dict[str, Var]:
        """Metrics of the discriminator's update by name, f32[] each."""
        return {}


def mean(b: Builder, x: Var, out: str = "") -> Var:
    """f32[]: the mean over all axes."""
    return b.mean(x, axes=tuple(range(x.type.rank)), keepdims=False, out=out)  # type: ignore[no-any-return]


__all__ = ["Round", "Side", "Term", "mean"]
