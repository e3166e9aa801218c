"""Two players: a generator that makes samples, a discriminator that tells them from data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from latentc.components.contract import Draw, Need, Network, Update
from latentc.components.kit import Conditions, call
from latentc.components.parts import Objective
from latentc.ir.builder import Builder, ModuleBuilder, Var
from latentc.ir.types import B

if TYPE_CHECKING:
    from latentc.spec.schema import Spec

DISCRIMINATOR = "discriminator"
"""Name of the network that plays against `main`."""


class Adversarial(Objective):
    """A generative adversarial network (Goodfellow et al. 2014, arXiv:1406.2661): `main` against `discriminator`.

    The discriminator's score D(x, y) is high if it takes x for data of class y. Classes of generated samples are drawn
    uniformly.
    """

    kind: Literal["adversarial"]
    loss: Literal["hinge", "non_saturating", "least_squares"] = Field(
        "hinge", description="hinge (Lim and Ye 2017), logistic and non-saturating (2014), or least squares (Mao 2017)"
    )
    discriminator_steps: int = Field(
        1, gt=0, description="optimiser steps of the discriminator for each of the generator"
    )
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "adversarial"}

    def needs(self, spec: Spec) -> tuple[Need, ...]:
        return Need("main", "generate"), Need(DISCRIMINATOR, "discriminate")

    def trained(self, spec: Spec) -> tuple[str, ...]:
        return "main", DISCRIMINATOR

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> tuple[Update, ...]:
        discriminator, conditions = networks[DISCRIMINATOR], Conditions(spec, networks)
        draws = (Draw("z", "normal"), Draw("labels", "integers", {"high": spec.data.classes}))

        b = mb.function("loss.discriminator")
        x = b.input("x", discriminator.methods["forward"].input("state").type)
        told = conditions.operands(b, conditions.inputs(b, by_field=True))
        fake, drawn = self._generated(b, networks["main"])
        # One call, so that spectral norms take one step; no gradient reaches the generator.
        both = b.concat(x, b.stop_gradient(fake), axis=0, out="images")
        classes = {name: b.concat(y, drawn[name], axis=0, out="classes") for name, y in told.items()}
        scores = call(b, discriminator, "forward", classes, state=both, out="scores")
        of_data, of_samples = b.split(scores, axis=0, sizes=(B, B), out="of_data of_samples")
        pays_data, pays_samples, _ = _LOSSES[self.loss]
        loss = b.add(_mean(b, pays_data(b, of_data)), _mean(b, pays_samples(b, of_samples)), out="loss")
        right = self._right(b, of_data, of_samples)
        b.output(loss, *(_mean(b, b.cast(x, to="f32"), f"accuracy_{w}") for x, w in zip(right, _SIDES, strict=True)))
        b.finish("What the discriminator minimises, then how often it is right about data and about samples.")

        b = mb.function("loss.generator")
        fake, drawn = self._generated(b, networks["main"])
        scores = call(b, discriminator, "forward", drawn, state=fake, out="scores")
        b.output(_mean(b, _LOSSES[self.loss][2](b, scores), "loss"))
        b.finish("What the generator minimises.")

        mb.entries |= {name: name for name in ("loss.discriminator", "loss.generator")}
        metrics = ("discriminator/loss", "discriminator/accuracy_real", "discriminator/accuracy_fake")
        fields = ("x", *conditions.fields)
        return (
            Update(
                "loss.discriminator",
                (DISCRIMINATOR,),
                fields,
                draws,
                metrics,
                "discriminator",
                self.discriminator_steps,
            ),
            Update("loss.generator", ("main",), (), draws, ("generator/loss",), "generator"),
        )

    def _generated(self, b: Builder, generator: Network) -> tuple[Var, dict[str, Var]]:
        """Samples of drawn noise z and classes, and the classes as operands."""
        forward = generator.methods["forward"]
        z = b.input("z", forward.input("noise").type)
        labels = b.input("labels", forward.input("condition").type)
        told = {forward.input("condition").name: labels}
        return call(b, generator, "forward", told, noise=z, out="fake"), told

    def _right(self, b: Builder, real: Var, fake: Var) -> tuple[Var, Var]:
        """Which samples the discriminator is right about: by the sign, or where it aims at 0 and 1 by the half."""
        middle = 0.5 if self.loss == "least_squares" else 0.0
        return b.greater(real, middle), b.less(fake, middle)


def _mean(b: Builder, x: Var, out: str = "") -> Var:
    """f32[]: the mean of scores [B, 1]."""
    return b.mean(x, axes=(0, 1), keepdims=False, out=out)  # type: ignore[no-any-return]


_SIDES = ("real", "fake")
Loss = Callable[[Builder, Var], Var]

# What the discriminator pays for the score of data, for that of a sample, and what the generator pays for it.
_LOSSES: dict[str, tuple[Loss, Loss, Loss]] = {
    "hinge": (lambda b, s: b.relu(1.0 - s), lambda b, s: b.relu(1.0 + s), lambda b, s: -s),
    "non_saturating": (lambda b, s: b.softplus(-s), lambda b, s: b.softplus(s), lambda b, s: b.softplus(-s)),
    "least_squares": (
        lambda b, s: 0.5 * (s - 1.0) * (s - 1.0),
        lambda b, s: 0.5 * s * s,
        lambda b, s: 0.5 * (s - 1.0) * (s - 1.0),
    ),
}
