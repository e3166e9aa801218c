"""A generator that makes samples against a discriminator that tells them from data.

Symbols: B batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from latentc.components import OneOf
from latentc.components.backbone import Backbone
from latentc.components.condition import operand_name
from latentc.components.contract import Draw, Need, Network, Port, Update
from latentc.components.kit import Conditions, call, training_method
from latentc.components.objective import Objective
from latentc.components.objectives._against_discriminator import DISCRIMINATOR, whole_images
from latentc.components.objectives.augmentations._augmentation import Augmentation, augment_side, drawn_for
from latentc.components.objectives.terms._term import Round, Side, Term, weighted
from latentc.components.objectives.terms.hinge import Hinge
from latentc.components.parts import Problem, Refusal, Spec
from latentc.ir.builder import Builder, ModuleBuilder, Var, i64
from latentc.ir.types import B


class Adversarial(Objective):
    """A generative adversarial network (Goodfellow et al. 2014, arXiv:1406.2661): `main` against `discriminator`.

    Both losses are weighted sums of `terms`. Classes of generated samples are drawn uniformly; if the networks take
    more than a class, samples are made for the conditions of a batch of data.
    """

    kind: Literal["adversarial"]
    terms: tuple[Annotated[Term, OneOf("objectives/terms", named=True)], ...] = Field(
        (Hinge(kind="hinge"),),
        min_length=1,
        description="terms of the losses: at least one on the score or of a classifier, then penalties",
    )
    augment: tuple[Annotated[Augmentation, OneOf("objectives/augmentations", named=True)], ...] = Field(
        (),
        max_length=8,
        description="augmentations of all images that the discriminator sees, through which gradients reach the "
        "generator (DiffAugment, Zhao et al. 2020); gradient penalties are those at the augmented images",
    )
    discriminator_steps: int = Field(
        1, gt=0, le=64, description="optimiser steps of the discriminator per step of the generator"
    )
    generator_batch: int = Field(
        1, gt=0, le=64, description="batch size of the generator, as a multiple of `train.batch_size`"
    )
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "adversarial"}

    def needs(self, spec: Spec) -> tuple[Need, ...]:
        of_terms = (need for i, term in enumerate(self.terms) for need in term.needs(("terms", i)))
        predicted = {}
        if any("features" in term.READS for term in self.terms):
            predicted = {"augmentations": tuple((part.kind, len(part.PARAMETERS)) for part in self.augment)}
        return Need("main", "generate"), Need(DISCRIMINATOR, "discriminate", asks=predicted), *of_terms

    def problems(self, spec: Spec) -> Iterator[Problem]:
        if not any(term.REACHES_GENERATOR and term.generator_factor for term in self.terms):
            message = "none of `objective.terms` trains the generator"
            yield Problem(("terms",), message, "add a term on the score, such as `hinge`")
        reasons = [f"samples are made for the `{name}` of a batch of data" for name in _beside_class(spec)]
        reasons += [f"`{term.kind}` pairs samples with a batch of data" for term in self.terms if term.PAIRS]
        if reasons and self.generator_batch > 1:
            yield Problem(("generator_batch",), f"{reasons[0]}, which is no larger than its own size", "leave it out")
        read = {name for term in self.terms for name in term.READS}
        opponent = spec.networks.get(DISCRIMINATOR)
        if opponent is not None and "sliced" in opponent.outputs(spec) and "sliced" not in read:
            message = f"no term trains the direction of `{DISCRIMINATOR}`'s last layer"
            yield Problem(
                ("terms",), message, f"add the term `slicing`, or set `networks.{DISCRIMINATOR}.sliced: false`"
            )
        for i, augmentation in enumerate(self.augment):
            if augmentation.kind in (other.kind for other in self.augment[:i]):
                yield Problem(
                    ("augment", i), f"augmentation `{augmentation.kind}` is listed twice", "leave it out once"
                )

    def trained(self, spec: Spec) -> tuple[str, ...]:
        return "main", DISCRIMINATOR

    def game(self, networks: Mapping[str, Network], spec: Spec) -> Game:
        """The game of its terms between the players."""
        return Game(self.terms, self.augment, networks, spec)

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> tuple[Update, ...]:
        for name in ("main", DISCRIMINATOR):
            if "forward_0" in networks[name].methods:
                message = f"network `{name}` has several widths or copies, of which it trains one"
                raise Refusal(message, "use an objective that trains them all")
        whole_images(networks[DISCRIMINATOR], f"objective `{self.kind}` judges")
        game = self.game(networks, spec)
        updates = [game.of_discriminator(mb, self.discriminator_steps)]
        lazy = [(i, term) for i, term in enumerate(self.terms) if term.interval > 1]
        updates += [game.of_penalty(mb, i, term, self.discriminator_steps) for i, term in lazy]
        updates.append(game.of_generator(mb, self.generator_batch))
        updates += [update for i, term in enumerate(self.terms) for update in term.updates(mb, i, game)]
        mb.entries |= {update.loss: update.loss for update in updates}
        return tuple(updates)


@dataclass(frozen=True)
class Game:
    """The terms and players of a spec, and the losses they make."""

    terms: tuple[Term, ...]
    augment: tuple[Augmentation, ...]
    networks: Mapping[str, Network]
    spec: Spec

    @property
    def conditions(self) -> Conditions:
        """Those that the discriminator, a term or, if samples are made for data, the generator reads."""
        players = [self.networks[name] for name in ("main", DISCRIMINATOR)]
        taken = [player for player in players if self.given or player is players[-1]]
        read = {port.name for player in taken for port in player.methods["forward"].inputs_of("condition")}
        if any(term.CLASSIFIES for term in self.terms):
            read.add(operand_name("class"))
        return Conditions(self.spec, self.networks, tuple(n for n in self.spec.conditions if operand_name(n) in read))

    @property
    def given(self) -> bool:
        """Whether samples are made for the conditions of data, rather than for drawn classes."""
        return self.paired or bool(_beside_class(self.spec))

    @property
    def paired(self) -> bool:
        """Whether a term compares samples with data in the generator's loss too."""
        return any(term.PAIRS for term in self.terms)

    @property
    def draws(self) -> tuple[Draw, ...]:
        """Noise and, if anybody reads it and data do not give it, the class of samples."""
        labelled = not self.given and (bool(self.conditions.items()) or _takes_class(self.networks["main"]))
        classes = Draw("labels", "integers", {"high": self.spec.data.classes})
        return (
            *(Draw(port.name, port.distribution or "normal") for port in self.noise),
            *((classes,) if labelled else ()),
        )

    @property
    def noise(self) -> tuple[Port, ...]:
        """The inputs of samples: the generator's noise inputs; one alone is called z."""
        generator = self.networks["main"]
        ports = generator.methods[training_method(generator)].inputs_of("noise")
        return (replace(ports[0], name="z"), *ports[1:])

    @property
    def usual(self) -> tuple[Term, ...]:
        """The terms of every update."""
        return tuple(term for term in self.terms if term.interval == 1)

    def of_discriminator(self, mb: ModuleBuilder, steps: int) -> Update:
        b, discriminator = mb.function("loss.discriminator"), self.networks[DISCRIMINATOR]
        conditions = self.conditions
        x = b.input("x", discriminator.methods["forward"].input("state").type)
        cond = conditions.operands(b, conditions.inputs(b, by_field=True))
        real, fake = Side(x, cond, cond.get(operand_name("class"))), self._samples(b, cond)
        # No gradient reaches the generator.
        fake.images = b.stop_gradient(fake.images, out="fake")
        self._augment(b, data=real, samples=fake)
        self._judge(b, data=real, samples=fake)
        round = Round(b, discriminator, fake, real, self.spec.data.classes or 0, self.networks)
        parts = weighted(b, [(t, t.of_discriminator(round), t.weight) for t in self.usual])
        parts |= self.metrics(round)
        b.output(*parts.values())
        b.finish("The discriminator's loss, then further metrics.")
        metrics = tuple(f"{DISCRIMINATOR}/{name}" for name in parts)
        fields = ("x", *conditions.fields)
        of_all = (*self.draws, *self._drawn("data", "samples"), *round.draws)
        return Update("loss.discriminator", (DISCRIMINATOR,), fields, of_all, metrics, DISCRIMINATOR, steps)

    def metrics(self, round: Round) -> dict[str, Var]:
        """Metrics of the discriminator's update by name, f32[] each."""
        return {name: x for term in self.usual for name, x in term.metrics(round).items()}

    def of_penalty(self, mb: ModuleBuilder, number: int, term: Term, steps: int) -> Update:
        """The update of the discriminator by one term alone, whose weight makes up for the steps between.

        It is repeated as often as the update by the other terms, so that their proportion is that of one update by all.
        """
        name = f"{term.kind}_{number}"
        b, discriminator = mb.function(f"loss.{name}"), self.networks[DISCRIMINATOR]
        conditions = self.conditions
        x = b.input("x", discriminator.methods["forward"].input("state").type)
        cond = conditions.operands(b, conditions.inputs(b, by_field=True))
        real, fake = Side(x, cond, cond.get(operand_name("class"))), Side(x, cond)
        if term.reads_samples:
            fake = self._samples(b, cond)
            fake.images = b.stop_gradient(fake.images, out="fake")
        seen = {"data": real} | ({"samples": fake} if term.reads_samples else {})
        self._augment(b, **seen)
        round = Round(b, discriminator, fake, real, self.spec.data.classes or 0, self.networks)
        value = term.of_discriminator(round)
        assert value is not None
        b.output(b.mul(value, term.weight * term.interval, out="loss"), value)
        b.finish("The discriminator's regulariser, applied every few steps, then its unscaled value.")
        draws = (*(self.draws if term.reads_samples else ()), *self._drawn(*seen), *round.draws)
        metrics = (f"{name}/loss", f"{name}/{term.kind}")
        update = Update(f"loss.{name}", (DISCRIMINATOR,), ("x", *conditions.fields), draws, metrics, name, steps)
        return replace(update, every=term.interval, partial=True)

    def of_generator(self, mb: ModuleBuilder, multiple: int) -> Update:
        b, discriminator = mb.function("loss.generator"), self.networks[DISCRIMINATOR]
        conditions = self.conditions
        x = b.input("x", discriminator.methods["forward"].input("state").type) if self.paired else None
        cond = conditions.operands(b, conditions.inputs(b, by_field=True)) if self.given else {}
        fake = self._samples(b, cond)
        real = None if x is None else Side(x, cond, cond.get(operand_name("class")))
        seen = {"samples": fake} if real is None else {"data": real, "samples": fake}
        self._augment(b, **seen)
        self._judge(b, **seen)
        round = Round(b, discriminator, fake, real, self.spec.data.classes or 0, self.networks)
        parts = weighted(b, [(t, t.of_generator(round), t.generator_factor) for t in self.terms])
        b.output(*parts.values())
        b.finish("The generator's loss, then its terms." if len(parts) > 1 else "The generator's loss.")
        metrics = tuple(f"generator/{name}" for name in parts)
        fields = (*(("x",) if self.paired else ()), *(conditions.fields if self.given else ()))
        draws = (*self.draws, *self._drawn(*seen), *round.draws)
        return Update("loss.generator", ("main",), fields, draws, metrics, "generator", batch_multiple=multiple)

    def asked(self, b: Builder, cond: Mapping[str, Var]) -> tuple[list[Var], Mapping[str, Var]]:
        """Noise, and the conditions that samples are made for: those of data, or drawn classes."""
        noise = [b.input(port.name, port.type) for port in self.noise]
        if not self.given:
            labelled = len(self.draws) > len(noise)
            cond = {operand_name("class"): b.input("labels", i64(B))} if labelled else {}
        return noise, cond

    def _samples(self, b: Builder, cond: Mapping[str, Var]) -> Side:
        """Samples of drawn noise z, made for these conditions of data or for drawn classes."""
        generator = self.networks["main"]
        noise, cond = self.asked(b, cond)
        images = call(b, generator, training_method(generator), cond, noise=noise, out="fake")
        return Side(images, cond, cond.get(operand_name("class")), noise=noise)

    def _drawn(self, *sides: str) -> tuple[Draw, ...]:
        """The random inputs of the augmentations of these sides."""
        shape = self.spec.data.shape or ()
        return tuple(draw for of in sides for draw in drawn_for(self.augment, shape, of))

    def _augment(self, b: Builder, **sides: Side) -> None:
        """Augments the images of sides, by their names, if the objective does."""
        for of, side in sides.items() if self.augment else ():
            augment_side(b, self.augment, side, of)

    def _judge(self, b: Builder, **sides: Side) -> None:
        """Has the discriminator judge sides, by their names: the outputs that terms read, and predicted parameters."""
        discriminator, read = self.networks[DISCRIMINATOR], {name for term in self.terms for name in term.READS}
        compared = self.augment if "features" in read else ()
        # One call, so that spectral norms take one step.
        images = [side.images for side in sides.values()] + [
            s.original for s in sides.values() if compared and s.original
        ]
        state = _joined(b, images, "images")
        cond = {
            name: _joined(b, [side.conditions[name] for side in sides.values()] * (2 if compared else 1), "classes")
            for name in next(iter(sides.values())).conditions
        }
        names = [port.name for port in discriminator.methods["forward"].outputs]
        values = call(b, discriminator, "forward", cond, state=state, out=" ".join(names))
        outputs = dict(zip(names, values if isinstance(values, tuple) else (values,), strict=True))
        for name, value in outputs.items():
            if name in read:
                kinds = [f"{name}_of_{of}" for of in sides] + [f"{name}_of_original_{of}" for of in sides if compared]
                parts = _parted(b, value, kinds)
                for side, part in zip(sides.values(), parts, strict=False):
                    side.outputs[name] = part
                if name == "features":
                    self._predict(
                        b, sides, [b.op("sub", *two) for two in zip(parts, parts[len(sides) :], strict=False)]
                    )

    def _predict(self, b: Builder, sides: Mapping[str, Side], differences: list[Var]) -> None:
        """Predicts the parameters of augmentations by how features differ from those of the original images."""
        kinds = [augmentation.kind for augmentation in self.augment]
        difference = _joined(b, differences, "difference")
        out = " ".join(f"predicted_{kind}" for kind in kinds)
        found = call(b, self.networks[DISCRIMINATOR], "augmentations", {}, state=difference, out=out)
        for kind, value in zip(kinds, found if isinstance(found, tuple) else (found,), strict=True):
            parts = _parted(b, value, [f"{kind}_predicted_of_{of}" for of in sides])
            for side, part in zip(sides.values(), parts, strict=True):
                side.predicted[kind] = part


def _joined(b: Builder, parts: list[Var], out: str) -> Var:
    return parts[0] if len(parts) == 1 else b.concat(*parts, axis=0, out=out)


def _parted(b: Builder, value: Var, names: list[str]) -> tuple[Var, ...]:
    """The parts of a value, in equal parts of the batch."""
    return (value,) if len(names) == 1 else b.split(value, axis=0, sizes=(B,) * len(names), out=" ".join(names))


def _takes_class(network: Network) -> bool:
    return any(port.name == operand_name("class") for port in network.methods["forward"].inputs_of("condition"))


def _beside_class(spec: Spec) -> list[str]:
    """The conditions besides the class that the players take."""
    players = [spec.networks.get(name) for name in ("main", DISCRIMINATOR)]
    return [
        n
        for n in spec.conditions
        if n != "class" and any(n in p.takes(spec) for p in players if isinstance(p, Backbone))
    ]
