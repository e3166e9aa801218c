"""Base class of adversarial terms, and the values of an update that they read.

Symbols: B batch, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from latentc.components.contract import Draw, Need, Network, Update
from latentc.components.kit import Operands
from latentc.components.parts import Part, Problem, Spec
from latentc.components.sums import names_of_terms, summed
from latentc.ir.builder import Builder, ModuleBuilder, Var
from latentc.ir.types import TensorType

if TYPE_CHECKING:
    from latentc.components.objectives.adversarial import Game


DISCRIMINATOR = "discriminator"
"""Name of the network that plays against `main`."""


@dataclass
class Side:
    """Images of one kind (data or samples): the conditions of the discriminator, and its outputs by name.

    `noise` is that of samples. If they are augmented: also the `original` images, and by augmentation the parameters
    f32[B, P] and those that the discriminator has predicted.
    """

    images: Var
    conditions: Operands
    labels: Var | None = None  # i64[B]
    outputs: dict[str, Var] = field(default_factory=dict)
    original: Var | None = None
    parameters: dict[str, Var] = field(default_factory=dict)
    predicted: dict[str, Var] = field(default_factory=dict)
    noise: list[Var] = field(default_factory=list)


@dataclass
class Round:
    """One update: `real` is None in the generator's, unless a term compares pairs.

    `networks` are those of the spec, for terms that need others.
    """

    b: Builder
    discriminator: Network
    fake: Side
    real: Side | None = None
    classes: int = 0
    networks: Mapping[str, Network] = field(default_factory=dict)
    drawn: dict[str, tuple[Draw, Var]] = field(default_factory=dict)

    def draw(self, draw: Draw, type: TensorType) -> Var:
        """A random input of the loss; terms that name it alike share it."""
        if draw.name not in self.drawn:
            self.drawn[draw.name] = draw, self.b.input(draw.name, type)
        return self.drawn[draw.name][1]

    @property
    def draws(self) -> tuple[Draw, ...]:
        """The random inputs that terms have added, in the order of the inputs."""
        return tuple(draw for draw, _ in self.drawn.values())


class Term(Part):
    """A term of the adversarial objective."""

    weight: float = Field(1.0, gt=0, description="weight of the term")
    READS: ClassVar[tuple[str, ...]] = ("score",)
    """The outputs of the discriminator that it reads."""
    CLASSIFIES: ClassVar[bool] = False
    """Whether it needs the class of each image."""
    DIFFERENTIATES: ClassVar[bool] = False
    """Whether it reads derivatives of the discriminator by images, rather than its outputs alone."""
    REACHES_GENERATOR: ClassVar[bool] = True
    """Whether it contributes to the generator's loss."""
    PAIRS: ClassVar[bool] = False
    """Whether the generator's loss too compares samples with data, which have the same conditions."""

    @property
    def reads_samples(self) -> bool:
        """Whether it looks at samples, and not at data alone."""
        return True

    @property
    def interval(self) -> int:
        """Steps from one update of the discriminator by this term alone to the next; 1: it is part of every update."""
        return 1

    @property
    def generator_factor(self) -> float:
        """Its factor in the loss of the generator."""
        return self.weight

    def problems(self, spec: Spec) -> Iterator[Problem]:
        if self.CLASSIFIES and ("class" not in spec.conditions or not spec.data.classes):
            message = f"`{self.kind}` needs the class of each image"
            yield Problem((), message, "add `data.classes` and `conditioning.class: {kind: label, dropout: 0}`")

    @property
    def asks(self) -> Mapping[str, Any]:
        """Requests to the discriminator (`Need.asks`)."""
        return {}

    def needs(self, place: tuple[str | int, ...]) -> tuple[Need, ...]:
        """The capabilities that it needs of networks, at its place in the objective."""
        return (Need(DISCRIMINATOR, "discriminate", self.READS, place, f"the term `{self.kind}`", self.asks),)

    def updates(self, mb: ModuleBuilder, number: int, game: Game) -> tuple[Update, ...]:
        """Adds its losses that are updates of the generator by itself; `number` is that of the term."""
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
    return b.mean(x, axes=tuple(range(x.type.rank)), keepdims=False, out=out)


def weighted(b: Builder, terms: list[tuple[Term, Var | None, float]]) -> dict[str, Var]:
    """`loss`, the weighted sum of the terms that are there, then each term by itself if there are several."""
    there = [(term, value, weight) for term, value, weight in terms if value is not None and weight]
    scaled = [value if weight == 1 else value * weight for _, value, weight in there]
    loss = summed(b, "loss", scaled)
    found = {"loss": loss}
    if len(there) > 1:
        names = names_of_terms(term.kind for term, *_ in there)
        found |= {name: value for name, (_, value, _) in zip(names, there, strict=True)}
    return found
