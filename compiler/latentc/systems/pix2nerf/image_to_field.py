"""Training of a rendered field against a discriminator, with an encoder that inverts it.

Not `adversarial`: cameras are drawn, and half of the generator's steps reconstruct images of the data.
Symbols: B batch, C colours, H rows, W columns, Z dimension of the latent z.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from latentc.components.capabilities import TRAINING
from latentc.components.contract import Draw, Need, Network, Port, Update
from latentc.components.kit import Conditions, Operands, call, state_gradient
from latentc.components.objective import Objective
from latentc.components.objectives._common import step_of
from latentc.components.objectives._reconstruction import PERCEPTUAL
from latentc.components.objectives.terms._term import DISCRIMINATOR, mean
from latentc.components.parts import Spec
from latentc.components.sums import summed
from latentc.ir.builder import Builder, ModuleBuilder, Var

ENCODER = "encoder"
WINDOW, DEVIATION = 11, 1.5
"""Side and standard deviation of the windows of structural similarity."""


class ImageToField(Objective):
    """Pix2NeRF's training (Cai et al. 2022, arXiv:2202.13162): non-saturating losses with R1, cameras that
    `discriminator` finds in samples, and `encoder`, which inverts samples. Every other step of the generator renders
    the latents of data, from random cameras and from their own.

    The discriminator and the encoder are trained in one update. A network `perceptual`, if there is one, compares
    reconstructions with data as well. All errors are averaged.
    """

    kind: Literal["image_to_field"]
    penalty: float = Field(0.2, ge=0, description="weight of R1: half the squared gradient of scores of data")
    camera: float = Field(15.0, ge=0, description="weight of the squared error of cameras found by the discriminator")
    encoder_latent: float = Field(
        1.0, ge=0, description="weight of the squared error of latents that the encoder finds"
    )
    encoder_camera: float = Field(
        1.0, ge=0, description="weight of the squared error of cameras that the encoder finds"
    )
    conditional: float = Field(1.0, ge=0, description="weight of the adversarial loss of latents of data")
    reconstruction: float = Field(5.0, ge=0, description="weight of the error of reconstructions; 0: pi-GAN alone")
    similarity: float = Field(1.0, ge=0, description="share of 1 - SSIM in that error, beside squared differences")
    perceptual: float = Field(1.0, ge=0, description="share of the distance of the network `perceptual` in it")
    warmup: int = Field(
        0, ge=0, le=1_000_000_000, description="training steps before the encoder learns from reconstructions"
    )
    density_noise: int = Field(
        5000,
        ge=0,
        le=1_000_000_000,
        description="training steps over which the deviation of the noise in densities falls from 1 to 0; 0: none",
    )
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "image_to_field"}

    def needs(self, spec: Spec) -> tuple[Need, ...]:
        perceptual = (Need(PERCEPTUAL, "compare"),) if PERCEPTUAL in spec.networks else ()
        opponents = Need(DISCRIMINATOR, "discriminate_views"), Need(ENCODER, "find_views")
        return Need("main", "render_views"), *opponents, *perceptual

    def trained(self, spec: Spec) -> tuple[str, ...]:
        return *super().trained(spec), DISCRIMINATOR, ENCODER

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> tuple[Update, ...]:
        of_main = super().trained(spec)
        alternating = {"every": 2} if self.reconstruction or self.conditional else {}
        updates = [self._of_opponents(mb, networks, spec), self._of_samples(mb, networks, spec, of_main, alternating)]
        if alternating:
            updates.append(self._of_data(mb, networks, spec, of_main))
        mb.entries |= {update.loss: update.loss for update in updates}
        return tuple(updates)

    def _of_opponents(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> Update:
        round = _Round(mb.function("loss.opponents"), networks, spec, self.density_noise)
        b, x, z = round.b, round.images, round.latent()
        made = b.stop_gradient(round.rendered(z, round.cond, "made"), out="made")
        (of_data, _), (of_samples, camera) = (round.judged(image, of) for image, of in ((x, "data"), (made, "samples")))
        game = b.add(mean(b, b.softplus(of_samples)), mean(b, b.softplus(b.neg(of_data))), out="game")
        cameras = _error(b, camera, round.camera, "cameras")
        found, found_camera = call(b, networks[ENCODER], "forward", round.cond, state=made, out="found found_camera")
        latents = _error(b, found, z, "encoder_latents")
        seen_from = _error(b, found_camera, round.camera, "encoder_cameras")
        shown = {"game": game, "cameras": cameras, "encoder_latents": latents, "encoder_cameras": seen_from}
        total = [game, cameras * self.camera, latents * self.encoder_latent, seen_from * self.encoder_camera]
        if self.penalty:
            gradient = state_gradient(b, networks[DISCRIMINATOR], round.cond, x, out="score gradient")
            squared = b.sum(gradient * gradient, axes=(1, 2, 3), keepdims=False, out="squared")
            shown["penalty"] = mean(b, squared, "penalty")
            total.append(shown["penalty"] * (self.penalty / 2))
        doc = "The loss of the discriminator and the encoder, and its terms before they are weighted."
        return round.update("opponents", (DISCRIMINATOR, ENCODER), total, shown, doc)

    def _of_samples(
        self,
        mb: ModuleBuilder,
        networks: Mapping[str, Network],
        spec: Spec,
        trained: tuple[str, ...],
        alternating: dict[str, int],
    ) -> Update:
        round = _Round(mb.function("loss.generator"), networks, spec, self.density_noise, reads_images=False)
        b = round.b
        score, camera = round.judged(round.rendered(round.latent(), round.cond, "made"), "samples")
        game = mean(b, b.softplus(b.neg(score)), "game")
        cameras = _error(b, camera, round.camera, "cameras")
        doc = "The generator's loss of random latents, and its terms before they are weighted."
        total, shown = [game, cameras * self.camera], {"game": game, "cameras": cameras}
        return round.update("generator", trained, total, shown, doc, **alternating)

    def _of_data(
        self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec, trained: tuple[str, ...]
    ) -> Update:
        round = _Round(mb.function("loss.reconstruction"), networks, spec, self.density_noise)
        b, x = round.b, round.images
        z, own_camera = call(b, networks[ENCODER], "forward", round.cond, state=x, out="z own_camera")
        if self.warmup:
            begun = b.cast(b.less_equal(self.warmup, step_of(b)), to="f32", out="begun")
            z, own_camera = (_gradient_times(b, value, begun) for value in (z, own_camera))
        total, shown = [], dict[str, Var]()
        if self.conditional:
            score, camera = round.judged(round.rendered(z, round.cond, "made"), "samples")
            shown |= {"game": mean(b, b.softplus(b.neg(score)), "game")}
            shown |= {"cameras": _error(b, camera, round.camera, "cameras")}
            total += [shown["game"] * self.conditional, shown["cameras"] * self.camera]
        if self.reconstruction:
            again = round.rendered(z, {**round.cond, round.camera_name: own_camera}, "again")
            shown["pixels"] = _error(b, again, x, "pixels")
            total.append(shown["pixels"] * self.reconstruction)
            if self.similarity:
                shown["dissimilarity"] = b.op("sub", 1.0, similarity(b, again, x), out="dissimilarity")
                total.append(shown["dissimilarity"] * (self.reconstruction * self.similarity))
            if PERCEPTUAL in networks and self.perceptual:
                distance = call(b, networks[PERCEPTUAL], "forward", {}, state=[again, x], out="distance")
                shown["perceptual"] = mean(b, distance, "perceptual")
                total.append(shown["perceptual"] * (self.reconstruction * self.perceptual))
        doc = "The loss of the generator and the encoder for latents of data, and its terms before they are weighted."
        return round.update("reconstruction", (*trained, ENCODER), total, shown, doc, every=2, rests=True)


class _Round:
    """Shared by the losses: conditions, a random camera, random places along rays for each rendering."""

    def __init__(
        self, b: Builder, networks: Mapping[str, Network], spec: Spec, density_noise: int, reads_images: bool = True
    ) -> None:
        self.b, self.networks = b, networks
        conditions, state = Conditions(spec, networks), networks[DISCRIMINATOR].methods["forward"].input("state")
        method = networks["main"].methods[TRAINING]
        self.z, *self.of_rays = method.inputs_of("noise")
        (self.camera_name,) = (p.name for p in method.inputs_of("condition") if p.type.is_float)
        # A loss takes data fields first, then random inputs.
        self.given = b.input("x", state.type) if reads_images else None
        for field, type in conditions.stored.items():
            b.input(field, type)
        self.cond: Operands = conditions.operands(b, conditions.inputs(b, by_field=True))
        self.fields = (*(["x"] if reads_images else []), *conditions.fields)
        self.draws = list(conditions.drawn())
        self.deviation = b.constant(0.0, "f32", out="deviation")
        if density_noise:
            passed = b.cast(step_of(b), to="f32") * (1 / density_noise)
            self.deviation = b.relu(b.op("sub", 1.0, passed), out="deviation")

    @property
    def camera(self) -> Var:
        """The random cameras f32[B, 2]."""
        return self.cond[self.camera_name]

    @property
    def images(self) -> Var:
        """Images of the data."""
        assert self.given is not None
        return self.given

    def latent(self) -> Var:
        """Random latents between -1 and 1."""
        return self.b.op("sub", self._drawn("u", self.z) * 2.0, 1.0, out="z")  # type: ignore[no-any-return]

    def _drawn(self, name: str, port: Port) -> Var:
        assert port.distribution is not None
        self.draws.append(Draw(name, port.distribution))
        return self.b.input(name, port.type)

    def rendered(self, z: Var, cond: Operands, out: str) -> Var:
        """Images of latents, from random places along the rays and with noise in densities."""
        drawn = [self._drawn(f"{port.name}_of_{out}", port) for port in self.of_rays]
        drawn = [
            x * self.deviation if port.distribution == "normal" else x
            for x, port in zip(drawn, self.of_rays, strict=True)
        ]
        return call(self.b, self.networks["main"], TRAINING, cond, noise=[z, *drawn], out=out)  # type: ignore[no-any-return]

    def judged(self, images: Var, of: str) -> tuple[Var, Var]:
        """The discriminator's scores f32[B, 1] and cameras f32[B, 2] of images."""
        names = f"score_of_{of} camera_of_{of}"
        return call(self.b, self.networks[DISCRIMINATOR], "forward", self.cond, state=images, out=names)  # type: ignore[no-any-return]

    def update(
        self, name: str, trained: tuple[str, ...], total: list[Var], shown: Mapping[str, Var], doc: str, **when: Any
    ) -> Update:
        """Ends the loss: the sum of weighted terms, and each of them before it is weighted."""
        self.b.output(summed(self.b, "loss", total), *shown.values())
        self.b.finish(doc)
        metrics = tuple(f"{name}/{term}" for term in ("loss", *shown))
        return Update(f"loss.{name}", trained, self.fields, tuple(self.draws), metrics, name, **when)


def _gradient_times(b: Builder, x: Var, factor: Var) -> Var:
    """x, whose gradient is multiplied by the factor f32[]."""
    fixed = b.stop_gradient(x)
    return b.add(fixed, (x - fixed) * factor, out=x.value.name)  # type: ignore[no-any-return]


def _error(b: Builder, one: Var, other: Var, out: str) -> Var:
    difference = b.op("sub", one, other, out="difference")
    return mean(b, difference * difference, out)


def similarity(b: Builder, one: Var, other: Var) -> Var:
    """f32[]: the mean structural similarity of images [B, C, H, W] (Wang et al. 2004), whose constants are those of
    values between 0 and 1; beyond the edges are zeros."""
    line = np.exp(-((np.arange(WINDOW) - WINDOW // 2) ** 2) / (2 * DEVIATION**2))
    line /= line.sum()
    channels = int(one.shape[1])
    window = b.constant(np.tile(np.outer(line, line)[None, None], (channels, 1, 1, 1)), "f32", out="window")

    def blurred(x: Var, out: str) -> Var:
        return b.conv(x, window, padding=WINDOW // 2, groups=channels, out=out)  # type: ignore[no-any-return]

    first, second = blurred(one, "mean_of_one"), blurred(other, "mean_of_other")
    squares = (blurred(x * x, "squares") - m * m for x, m in ((one, first), (other, second)))
    shared, spread = blurred(one * other, "products") - first * second, summed(b, "spread", list(squares))
    light = b.div(first * second * 2.0 + 0.01**2, first * first + second * second + 0.01**2, out="light")
    structure = b.div(shared * 2.0 + 0.03**2, spread + 0.03**2, out="structure")
    return mean(b, light * structure, "similarity")
