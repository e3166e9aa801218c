"""Shared by objectives that train an autoencoder against a discriminator and compare images by a frozen network.

Symbols: B batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from latentc.components import OneOf
from latentc.components.contract import Draw, Need, Network, Update
from latentc.components.kit import call
from latentc.components.objectives._common import noise_inputs, step_of, step_operand
from latentc.components.objectives._reconstruction import PERCEPTUAL, PIXELS, Reconstruction
from latentc.components.objectives.terms._score import ScoreTerm
from latentc.components.objectives.terms._term import DISCRIMINATOR, Round, Side, Term, mean, weighted
from latentc.components.objectives.terms.hinge import Hinge
from latentc.components.objectives.terms.non_saturating import NonSaturating
from latentc.components.parts import Problem, Refusal, Spec
from latentc.ir.builder import Builder, ModuleBuilder, Var


class AgainstDiscriminator(Reconstruction):
    """An objective of `main`, an autoencoder, whose samples a network `discriminator` tells from data."""

    reconstruction: Literal["l1", "l2", "huber"] = Field("l1", description=PIXELS)
    adversarial: float = Field(0.8, ge=0, description="weight of the adversarial term")
    loss: Literal["hinge", "logistic"] = Field("hinge", description="loss of the discriminator")
    discriminator_weight: float = Field(
        1.0, gt=0, le=1e6, description="weight of that loss; matters to gradient clipping and the terms beside it"
    )
    label_noise: float = Field(
        0.0,
        ge=0,
        le=1,
        description="scale of the label noise in the discriminator's logistic loss, as in `non_saturating` of the "
        "adversarial objective",
    )
    label_noise_limit: float = Field(0.3, gt=0, le=1, description="maximum label noise")
    terms: tuple[Annotated[Term, OneOf("objectives/terms", named=True)], ...] = Field(
        (), max_length=64, description="additional penalties in the discriminator's loss"
    )
    generator: Literal["linear", "logistic"] = Field(
        "linear", description="adversarial term: negative score, or its softplus (non-saturating)"
    )
    start: int = Field(
        0,
        ge=0,
        le=1_000_000_000,
        description="training step from which the discriminator is trained and the adversarial term counts",
    )
    head_start: int = Field(
        0,
        ge=0,
        le=1_000_000_000,
        description="steps by which the adversarial term starts later than the discriminator's training",
    )
    warmup: int = Field(
        0, ge=0, le=1_000_000_000, description="steps over which the weight of the adversarial term then rises from 0"
    )
    every: int = Field(1, gt=0, le=1_000_000, description="train the discriminator only every this many steps")

    @property
    def _game(self) -> ScoreTerm:
        """The discriminator's loss of scores."""
        if self.loss == "hinge":
            return Hinge(kind="hinge")
        return NonSaturating(
            kind="non_saturating", label_noise=self.label_noise, label_noise_limit=self.label_noise_limit
        )

    def opposes(self) -> Need:
        """The capability that the network `discriminator` needs."""
        return Need(DISCRIMINATOR, "discriminate", asks={k: v for term in self.terms for k, v in term.asks.items()})

    def problems(self, spec: Spec) -> Iterator[Problem]:
        if self.label_noise and self.loss == "hinge":
            yield Problem(("label_noise",), "the hinge loss has no labels", "set `loss: logistic`")
        for i, term in enumerate(self.terms):
            if term.REACHES_GENERATOR or term.READS != ("score",):
                message = f"`{term.kind}` does not depend on the discriminator's scores alone"
                yield Problem(("terms", i), message, "use `lecam` or `gradient_penalty`")
            elif term.interval > 1:
                message = f"`{term.kind}` is part of every update here"
                yield Problem(("terms", i, "every"), message, "leave it out, or set the objective's `every`")

    def discriminator_update(self, mb: ModuleBuilder, networks: Mapping[str, Network]) -> Update:
        """Adds the loss of the discriminator."""
        main, discriminator = networks["main"], networks[DISCRIMINATOR]
        for i, term in enumerate(self.terms):
            if term.DIFFERENTIATES:
                whole_images(discriminator, f"`{term.kind}` differentiates scores of", ("terms", i))
        b = mb.function("loss.discriminator")
        x, noise, draws = given_samples(b, main, "regularized")
        # The penalty is not read here.
        annealed = main.methods["regularized"].inputs_of("scale")
        factor = {"scale": b.constant(1.0, "f32", out="factor")} if annealed else {}
        factor |= step_operand(b, main.methods["regularized"])
        made, _ = call(b, main, "regularized", {}, state=x, noise=noise, **factor, out="made penalty")
        real, fake = Side(x, {}), Side(b.stop_gradient(made, out="made"), {})
        for side, out in ((real, "real"), (fake, "fake")):
            drawn, of_side = seen_parts(b, discriminator, out)
            side.outputs["score"] = call(b, discriminator, "forward", {}, state=side.images, noise=drawn, out=out)
            draws += of_side
        round = Round(b, discriminator, fake, real)
        both = [mean(b, cost, name) for cost, name in zip(self._game.costs(round), ("of_real", "of_fake"), strict=True)]
        game = b.mul(both[0] + both[1], 0.5 * self.discriminator_weight, out=self._game.kind if self.terms else "loss")
        of_terms = [(term, term.of_discriminator(round), term.weight) for term in self.terms]
        shown = weighted(b, [(self._game, game, 1.0), *of_terms])
        b.output(*shown.values())
        b.finish(f"The {self.loss} loss of the discriminator.")
        mb.entries["loss.discriminator"] = "loss.discriminator"
        metrics = tuple(f"{DISCRIMINATOR}/{name}" for name in shown)
        return Update(
            "loss.discriminator",
            (DISCRIMINATOR,),
            ("x",),
            (*draws, *round.draws),
            metrics,
            DISCRIMINATOR,
            start=self.start,
            every=self.every,
        )

    def error(self, mb: ModuleBuilder, networks: Mapping[str, Network]) -> str:
        """A function (made, x) -> the mean error of reconstruction, with the distance of `perceptual`, f32[]."""
        b = mb.function("reconstruction_error")
        of = networks["main"].methods["regularized"].input("state").type
        made, x = b.input("made", of), b.input("x", of)
        difference = b.op("sub", made, x, out="difference")
        b.output(self.whole(b, networks, mean(b, self.of_pixels(b, difference), "error"), made, x))
        return b.finish("The error of reconstruction, and the perceptual distance.")

    def score(self, mb: ModuleBuilder, discriminator: Network) -> str:
        """A function made, noise of the discriminator -> the adversarial error, f32[]."""
        b = mb.function("adversarial_error")
        made = b.input("made", discriminator.methods["forward"].input("state").type)
        drawn, _ = seen_parts(b, discriminator, "made")
        score = call(b, discriminator, "forward", {}, state=made, noise=drawn, out="score")
        far = b.neg(score, out="far")
        b.output(mean(b, far if self.generator == "linear" else b.softplus(far), "fooled"))
        return b.finish("The adversarial error of a reconstruction.")

    def started(self, b: Builder, weight: Any) -> Any:
        """The weight of the adversarial term, 0 before it counts; adds the step as an input of a loss that needs it."""
        first = self.start + self.head_start
        if not first and not self.warmup:
            return weight
        step = step_of(b)
        if not self.warmup:
            begun = b.cast(b.less_equal(first, step), to="f32", out="begun")
        else:
            since = b.op("sub", b.cast(step, to="f32"), float(first), out="since")
            begun = b.clamp(since * (1 / self.warmup), low=0.0, high=1.0, out="begun")
        return b.mul(begun, weight, out="weight")


def given_samples(b: Builder, main: Network, method: str) -> tuple[Var, list[Var], tuple[Draw, ...]]:
    """Adds the inputs of a loss that are those of a method of an autoencoder: x, noise and how that is drawn."""
    of = main.methods[method]
    return b.input("x", of.input("state").type), *noise_inputs(b, of)


def whole_images(discriminator: Network, what: str, place: tuple[str | int, ...] = ()) -> None:
    """Refusal of a discriminator that scores random crops, if `what` is of whole images."""
    if discriminator.methods["forward"].inputs_of("noise"):
        message = f"{what} whole images, but the discriminator scores random crops"
        raise Refusal(message, "leave `crops` out of the discriminator", place)


def seen_parts(b: Builder, discriminator: Network, side: str) -> tuple[list[Var], tuple[Draw, ...]]:
    """Adds the noise of a discriminator as inputs `NAME_of_SIDE`, and how they are drawn; none of most."""
    ports = discriminator.methods["forward"].inputs_of("noise")
    draws = tuple(Draw(f"{p.name}_of_{side}", p.distribution) for p in ports if p.distribution is not None)
    return [b.input(draw.name, port.type) for draw, port in zip(draws, ports, strict=True)], draws


__all__ = ["DISCRIMINATOR", "PERCEPTUAL", "AgainstDiscriminator", "given_samples", "mean", "seen_parts", "whole_images"]
