"""Training of a generator of images from maps against discriminators at several resolutions.

Not `adversarial`: samples are compared with the data that their conditions belong to, layer by layer. Symbols: B batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, NamedTuple

from pydantic import Field

from latentc.components.contract import Need, Network, Update
from latentc.components.kit import Conditions, Operands, call
from latentc.components.objective import Objective
from latentc.components.objectives._reconstruction import PERCEPTUAL
from latentc.components.objectives.terms._term import DISCRIMINATOR, mean
from latentc.components.parts import Spec
from latentc.components.sums import summed
from latentc.ir.builder import Builder, ModuleBuilder, Var

DEPTH_WEIGHTS = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1.0)
"""Weights of the perceptual distances at VGG's five depths."""


class PairedTranslation(Objective):
    """Least squares against `discriminator`, and features of its layers matched (pix2pixHD, arXiv:1711.11585).

    A network `perceptual`, if there is one, compares samples and data as well. At each scale or depth the difference is
    absolute, and averaged.
    """

    kind: Literal["paired_translation"]
    features: float = Field(10.0, ge=0, description="weight of the distance of the discriminator's features; 0: none")
    perceptual: float = Field(10.0, ge=0, description="weight of the distance of the features of `perceptual`")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "paired_translation"}

    def needs(self, spec: Spec) -> tuple[Need, ...]:
        perceptual = (Need(PERCEPTUAL, "perceive"),) if PERCEPTUAL in spec.networks else ()
        return Need("main", "render"), Need(DISCRIMINATOR, "discriminate_scales"), *perceptual

    def trained(self, spec: Spec) -> tuple[str, ...]:
        return *super().trained(spec), DISCRIMINATOR

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> tuple[Update, ...]:
        conditions = Conditions(spec, networks)
        updates = (
            self._of_discriminator(mb, networks, conditions),
            self._of_generator(mb, networks, conditions, super().trained(spec)),
        )
        mb.entries |= {update.loss: update.loss for update in updates}
        return updates

    def _of_discriminator(self, mb: ModuleBuilder, networks: Mapping[str, Network], conditions: Conditions) -> Update:
        round = _played(mb.function("loss.discriminator"), networks, conditions)
        b, made = round.b, round.b.stop_gradient(round.made, out="made")
        of_data = [mean(b, (s - 1.0) * (s - 1.0)) for s in _scores(round.judged(round.x, "data"))]
        of_samples = [mean(b, s * s) for s in _scores(round.judged(made, "samples"))]
        real, fake = summed(b, "of_data", of_data), summed(b, "of_samples", of_samples)
        b.output(b.mul(real + fake, 0.5, out="loss"), real, fake)
        b.finish("The discriminator's loss, and the least squares of its scores of data and samples.")
        metrics = tuple(f"{DISCRIMINATOR}/{name}" for name in ("loss", "of_data", "of_samples"))
        fields = ("x", *conditions.fields)
        return Update("loss.discriminator", (DISCRIMINATOR,), fields, (), metrics, DISCRIMINATOR)

    def _of_generator(
        self, mb: ModuleBuilder, networks: Mapping[str, Network], conditions: Conditions, trained: tuple[str, ...]
    ) -> Update:
        round = _played(mb.function("loss.generator"), networks, conditions)
        b, of_samples = round.b, round.judged(round.made, "samples")
        squares = [mean(b, (s - 1.0) * (s - 1.0)) for s in _scores(of_samples)]
        shown, total = {"least_squares": summed(b, "least_squares", squares)}, list[Var]()
        if self.features:
            of_data = round.judged(round.x, "data")
            # Of each scale the mean of the layers, times 4; then the mean of the scales.
            weight = 4 / (len(of_data) * (len(of_data[0]) - 1))
            layers = [
                _distance(b, one, other, weight)
                for samples, data in zip(of_samples, of_data, strict=True)
                for one, other in zip(samples[:-1], data[:-1], strict=True)
            ]
            shown["features"] = summed(b, "features", layers)
            total.append(shown["features"] * self.features)
        if PERCEPTUAL in networks and self.perceptual:
            seen = [
                call(b, networks[PERCEPTUAL], "forward", {}, state=x, out=" ".join(f"{of}_{i}" for i in range(5)))
                for x, of in ((round.made, "seen_in_sample"), (round.x, "seen_in_data"))
            ]
            depths = [_distance(b, one, other, w) for one, other, w in zip(*seen, DEPTH_WEIGHTS, strict=True)]
            shown["perceptual"] = summed(b, "perceptual", depths)
            total.append(shown["perceptual"] * self.perceptual)
        b.output(summed(b, "loss", [shown["least_squares"], *total]), *shown.values())
        b.finish("The generator's loss, and its terms before they are weighted.")
        metrics = tuple(f"generator/{name}" for name in ("loss", *shown))
        return Update("loss.generator", trained, ("x", *conditions.fields), (), metrics, "generator")


class _Round(NamedTuple):
    """Data x, their conditions and the samples `made` for these."""

    b: Builder
    networks: Mapping[str, Network]
    cond: Operands
    x: Var
    made: Var

    def judged(self, x: Var, of: str) -> list[tuple[Var, ...]]:
        """The outputs of all layers of the discriminator, scale by scale."""
        network = self.networks[DISCRIMINATOR]
        outputs = network.methods["forward"].outputs
        names = " ".join(f"{port.name}_of_{of}" for port in outputs)
        values = call(self.b, network, "forward", self.cond, state=x, out=names)
        count = len(outputs) // int(network.sizes["scales"])  # type: ignore[arg-type]
        return [tuple(values[i : i + count]) for i in range(0, len(values), count)]


def _played(b: Builder, networks: Mapping[str, Network], conditions: Conditions) -> _Round:
    x = b.input("x", networks[DISCRIMINATOR].methods["forward"].input("state").type)
    cond = conditions.operands(b, conditions.inputs(b, by_field=True))
    return _Round(b, networks, cond, x, call(b, networks["main"], "forward", cond, out="made"))


def _scores(judged: list[tuple[Var, ...]]) -> list[Var]:
    return [layers[-1] for layers in judged]


def _distance(b: Builder, of_sample: Var, of_data: Var, weight: float) -> Var:
    """f32[]: the weighted mean absolute difference of features; those of data get no gradient."""
    difference = b.op("sub", of_sample, b.stop_gradient(of_data), out="difference")
    return mean(b, b.abs(difference)) * weight
