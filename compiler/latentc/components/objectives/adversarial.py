"""A generator that makes samples against a discriminator that tells them from data.

Symbols: B batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from latentc.components import OneOf
from latentc.components.condition import operand_name
from latentc.components.contract import Draw, Need, Network, Update
from latentc.components.kit import Conditions, call
from latentc.components.objective import Objective
from latentc.components.objectives.terms._term import Round, Side, Term, score_decay, weighted
from latentc.components.objectives.terms.hinge import Hinge
from latentc.components.parts import Problem
from latentc.ir.builder import Builder, ModuleBuilder, Var, i64
from latentc.ir.types import B

if TYPE_CHECKING:
    from latentc.spec.schema import Spec

DISCRIMINATOR = "discriminator"
"""Name of the network that plays against `main`."""


class Adversarial(Objective):
    """A generative adversarial network (Goodfellow et al. 2014, arXiv:1406.2661): `main` against `discriminator`.

    Both losses are weighted sums of `terms`. Classes of generated samples are drawn uniformly.
    """

    kind: Literal["adversarial"]
    terms: tuple[Annotated[Term, OneOf("objectives/terms", named=True)], ...] = Field(
        (Hinge(kind="hinge"),),
        min_length=1,
        description="terms of the losses: at least one on the score or of a classifier, then penalties",
    )
    discriminator_steps: int = Field(
        1, gt=0, le=64, description="optimiser steps of the discriminator per step of the generator"
    )
    generator_batch: int = Field(
        1, gt=0, le=64, description="batch size of the generator, as a multiple of `train.batch_size`"
    )
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "adversarial"}

    def needs(self, spec: Spec) -> tuple[Need, ...]:
        of_terms = (
            Need(DISCRIMINATOR, "discriminate", term.READS, ("terms", i), f"the term `{term.kind}`")
            for i, term in enumerate(self.terms)
        )
        return Need("main", "generate"), Need(DISCRIMINATOR, "discriminate"), *of_terms

    def problems(self, spec: Spec) -> Iterator[Problem]:
        if not any(term.REACHES_GENERATOR and term.generator_factor for term in self.terms):
            message = "none of `objective.terms` trains the generator"
            yield Problem(("terms",), message, "add a term on the score, such as `hinge`")
        read = {name for term in self.terms for name in term.READS}
        if getattr(spec.networks.get(DISCRIMINATOR), "sliced", False) and "sliced" not in read:
            message = f"no term trains the direction of `{DISCRIMINATOR}`'s last layer"
            yield Problem(
                ("terms",), message, f"add the term `slicing`, or set `networks.{DISCRIMINATOR}.sliced: false`"
            )

    @property
    def score_decay(self) -> float | None:
        return score_decay(self.terms)

    def trained(self, spec: Spec) -> tuple[str, ...]:
        return "main", DISCRIMINATOR

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> tuple[Update, ...]:
        game = _Game(self.terms, networks, spec)
        updates = [game.of_discriminator(mb, self.discriminator_steps)]
        lazy = [(i, term) for i, term in enumerate(self.terms) if term.interval > 1]
        updates += [game.of_penalty(mb, i, term, self.discriminator_steps) for i, term in lazy]
        updates.append(game.of_generator(mb, self.generator_batch))
        mb.entries |= {update.loss: update.loss for update in updates}
        return tuple(updates)


@dataclass(frozen=True)
class _Game:
    """The terms and players of a spec, and the losses they make."""

    terms: tuple[Term, ...]
    networks: Mapping[str, Network]
    spec: Spec

    @property
    def told(self) -> bool:
        """Whether the discriminator or a term reads the class of data."""
        return _takes_class(self.networks[DISCRIMINATOR]) or any(term.CLASSIFIES for term in self.terms)

    @property
    def draws(self) -> tuple[Draw, ...]:
        """Noise and, if anybody reads it, the class of samples."""
        labelled = self.told or _takes_class(self.networks["main"])
        classes = Draw("labels", "integers", {"high": self.spec.data.classes})
        return (Draw("z", "normal"), *((classes,) if labelled else ()))

    @property
    def usual(self) -> tuple[Term, ...]:
        """The terms of every update."""
        return tuple(term for term in self.terms if term.interval == 1)

    def of_discriminator(self, mb: ModuleBuilder, steps: int) -> Update:
        b, discriminator = mb.function("loss.discriminator"), self.networks[DISCRIMINATOR]
        conditions = Conditions(self.spec, self.networks, ("class",) if self.told else ())
        x = b.input("x", discriminator.methods["forward"].input("state").type)
        told = conditions.operands(b, conditions.inputs(b, by_field=True))
        real, fake = Side(x, told, told.get(operand_name("class"))), self._samples(b)
        # No gradient reaches the generator.
        fake.images = b.stop_gradient(fake.images, out="fake")
        # One call, so that spectral norms take one step.
        images = b.concat(real.images, fake.images, axis=0, out="images")
        both = {name: b.concat(y, fake.told[name], axis=0, out="classes") for name, y in told.items()}
        for name, value in self._judged(b, images, both).items():
            real.outputs[name], fake.outputs[name] = b.split(
                value, axis=0, sizes=(B, B), out=f"{name}_of_data {name}_of_samples"
            )
        round = Round(b, discriminator, fake, real, self.spec.data.classes or 0)
        parts = weighted(b, [(t, t.of_discriminator(round), t.weight) for t in self.usual])
        parts |= {name: x for term in self.usual for name, x in term.metrics(round).items()}
        b.output(*parts.values())
        b.finish("What the discriminator minimises, then more to log.")
        draws = {draw.name: draw for term in self.usual for draw in term.draws()}
        metrics = tuple(f"{DISCRIMINATOR}/{name}" for name in parts)
        fields = ("x", *conditions.fields)
        of_all = (*self.draws, *draws.values())
        return Update("loss.discriminator", (DISCRIMINATOR,), fields, of_all, metrics, DISCRIMINATOR, steps)

    def of_penalty(self, mb: ModuleBuilder, number: int, term: Term, steps: int) -> Update:
        """The update of the discriminator by one term alone, whose weight makes up for the steps between.

        It is repeated as often as the update by the other terms, so that their proportion is that of one update by all.
        """
        name = f"{term.kind}_{number}"
        b, discriminator = mb.function(f"loss.{name}"), self.networks[DISCRIMINATOR]
        conditions = Conditions(self.spec, self.networks, ("class",) if self.told else ())
        x = b.input("x", discriminator.methods["forward"].input("state").type)
        told = conditions.operands(b, conditions.inputs(b, by_field=True))
        real, fake = Side(x, told, told.get(operand_name("class"))), Side(x, told)
        if term.reads_samples:
            fake = self._samples(b)
            fake.images = b.stop_gradient(fake.images, out="fake")
        value = term.of_discriminator(Round(b, discriminator, fake, real, self.spec.data.classes or 0))
        assert value is not None
        b.output(b.mul(value, term.weight * term.interval, out="loss"), value)
        b.finish("What the discriminator minimises every few steps, then the term itself.")
        draws = (*(self.draws if term.reads_samples else ()), *term.draws())
        metrics = (f"{name}/loss", f"{name}/{term.kind}")
        update = Update(f"loss.{name}", (DISCRIMINATOR,), ("x", *conditions.fields), draws, metrics, name, steps)
        return replace(update, every=term.interval, partial=True)

    def of_generator(self, mb: ModuleBuilder, multiple: int) -> Update:
        b = mb.function("loss.generator")
        fake = self._samples(b)
        fake.outputs |= self._judged(b, fake.images, fake.told)
        round = Round(b, self.networks[DISCRIMINATOR], fake, classes=self.spec.data.classes or 0)
        parts = weighted(b, [(t, t.of_generator(round), t.generator_factor) for t in self.terms])
        b.output(*parts.values())
        b.finish("What the generator minimises, then its terms." if len(parts) > 1 else "What the generator minimises.")
        metrics = tuple(f"generator/{name}" for name in parts)
        return Update("loss.generator", ("main",), (), self.draws, metrics, "generator", batch_multiple=multiple)

    def _samples(self, b: Builder) -> Side:
        """Samples of drawn noise z and classes."""
        generator = self.networks["main"]
        z = b.input("z", generator.methods["forward"].input("noise").type)
        labels = b.input("labels", i64(B)) if len(self.draws) > 1 else None
        told = {} if labels is None else {operand_name("class"): labels}
        return Side(call(b, generator, "forward", told, noise=z, out="fake"), told, labels)

    def _judged(self, b: Builder, images: Var, told: Mapping[str, Var]) -> dict[str, Var]:
        """The outputs of the discriminator that terms read, by name."""
        discriminator = self.networks[DISCRIMINATOR]
        names = [port.name for port in discriminator.methods["forward"].outputs]
        values = call(b, discriminator, "forward", told, state=images, out=" ".join(names))
        outputs = dict(zip(names, values if isinstance(values, tuple) else (values,), strict=True))
        read = {name for term in self.terms for name in term.READS}
        return {name: value for name, value in outputs.items() if name in read}


def _takes_class(network: Network) -> bool:
    return bool(network.methods["forward"].inputs_of("condition"))
