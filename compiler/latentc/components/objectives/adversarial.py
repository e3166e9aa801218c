"""Two players: a generator that makes samples, a discriminator that tells them from data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from latentc.components.contract import Draw, Network, Update
from latentc.components.parts import Objective
from latentc.ir.builder import Builder, ModuleBuilder, Var, f32, i64
from latentc.ir.types import B

if TYPE_CHECKING:
    from latentc.spec.schema import Spec

PLAYER = "discriminator"
"""Name of the network that plays against `main`."""


class Adversarial(Objective):
    """A generative adversarial network (Goodfellow et al. 2014, arXiv:1406.2661): `main` against `discriminator`.

    The discriminator's score D(x, y) is high where it takes x for data of class y. Classes of generated samples are
    drawn uniformly.
    """

    kind: Literal["adversarial"]
    loss: Literal["hinge", "non_saturating", "least_squares"] = Field(
        "hinge", description="hinge (Lim and Ye 2017), logistic and non-saturating (2014), or least squares (Mao 2017)"
    )
    discriminator_steps: int = Field(
        1, gt=0, description="optimiser steps of the discriminator for each of the generator"
    )
    family: ClassVar[str] = "generator"
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "adversarial"}

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> tuple[Update, ...]:
        generator, discriminator = networks["main"], networks[PLAYER]
        draws = (Draw("z", "normal"), Draw("labels", "integers", {"high": spec.data.classes}))

        b = mb.function("loss.discriminator")
        x, y = b.input("x", f32(B, *generator.shape)), b.input("y", i64(B))
        fake, labels = self._generated(b, generator)
        # One call, so that spectral norms take one step; no gradient reaches the generator.
        both = b.concat(x, b.stop_gradient(fake), axis=0, out="images")
        scores = b.call(
            discriminator.methods["forward"], PLAYER, both, b.concat(y, labels, axis=0, out="classes"), out="scores"
        )
        of_data, of_samples = b.split(scores, axis=0, sizes=(B, B), out="of_data of_samples")
        pays_data, pays_samples, _ = _LOSSES[self.loss]
        loss = b.add(_mean(b, pays_data(b, of_data)), _mean(b, pays_samples(b, of_samples)), out="loss")
        right = self._right(b, of_data, of_samples)
        b.output(loss, *(_mean(b, b.cast(x, to="f32"), f"accuracy_{w}") for x, w in zip(right, _SIDES, strict=True)))
        b.finish("What the discriminator minimises, then how often it is right about data and about samples.")

        b = mb.function("loss.generator")
        fake, labels = self._generated(b, generator)
        scores = b.call(discriminator.methods["forward"], PLAYER, fake, labels, out="scores")
        b.output(_mean(b, _LOSSES[self.loss][2](b, scores), "loss"))
        b.finish("What the generator minimises.")

        mb.entries |= {name: name for name in ("loss.discriminator", "loss.generator")}
        metrics = ("discriminator/loss", "discriminator/accuracy_real", "discriminator/accuracy_fake")
        return (
            Update(
                "loss.discriminator", (PLAYER,), ("x", "y"), draws, metrics, "discriminator", self.discriminator_steps
            ),
            Update("loss.generator", ("main",), (), draws, ("generator/loss",), "generator"),
        )

    def _generated(self, b: Builder, generator: Network) -> tuple[Var, Var]:
        """Samples f32[B, C, H, W] of drawn noise z and classes, and the classes."""
        z = b.input("z", f32(B, generator.latent))
        labels = b.input("labels", i64(B))
        return b.call(generator.methods["forward"], "main", z, labels, out="fake"), labels

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
