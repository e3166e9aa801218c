"""Training of LFDM's denoiser: the motion that a frozen autoencoder finds in video is noised and predicted.

Symbols: B batch, C channels, F frames.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.backbone import Backbone
from latentc.components.condition import GivenInput
from latentc.components.contract import Need, Network, Update
from latentc.components.kit import Conditions, call
from latentc.components.objectives.denoising import DenoisingObjective
from latentc.components.objectives.diffusion import DiffusionLoss
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import ModuleBuilder, Var

IMAGE = "image"
"""The data field with the image whose motion a video is, its first frame."""


class LatentFlow(DenoisingObjective, DiffusionLoss):
    """A denoiser of motion f32[B, 3, F, h, w] (Ni et al. 2023, arXiv:2303.13744).

    Network `autoencoder` computes it from the field `image` and the video, without a gradient.
    """

    kind: Literal["latent_flow"]
    autoencoder: str = Field("autoencoder", description="one of `networks`, which describes video as motion")
    error_norm: Literal["l2", "l1"] = Field("l1", description="error of the prediction: squared, or absolute (LFDM)")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "latent_flow", "process": {"kind": "discrete", "steps": 100}}

    def needs(self, spec: Spec) -> tuple[Need, ...]:
        return (*super().needs(spec), Need(self.autoencoder, "animate"))

    def trained(self, spec: Spec) -> tuple[str, ...]:
        return tuple(name for name in super().trained(spec) if name != self.autoencoder)

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from super().problems(spec)
        yield from problems_of_image(spec)

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> tuple[Update, ...]:
        b, network = mb.function("loss.terms"), networks[self.autoencoder]
        image, video = network.methods["flow"].inputs
        x = b.input("x", video.type)
        read = Conditions(spec, networks).inputs(b, by_field=True)
        still: Var = b.given(IMAGE) or b.input(IMAGE, image.type)
        motion = b.stop_gradient(call(b, network, "flow", {}, state=[still, x], out="motion"), out="motion")
        denoised = self.denoised(b, networks, spec, (motion, read))
        return self.published(mb, denoised, self.loss(denoised.at, denoised.prediction), spec)


def problems_of_image(spec: Spec) -> Iterator[Problem]:
    """Data without the image that is moved, or a denoiser that is not given its features."""
    shape = spec.data.shape
    if shape is None or len(shape) != 4:
        return  # the networks say so
    wanted, found = [shape[0], *shape[2:]], spec.data.fields.get(IMAGE)
    if found is None or list(found.shape) != wanted:
        has = "no such field" if found is None else f"one of shape {list(found.shape)}"
        message = f"the data needs the first frame as field `{IMAGE}` of shape {wanted}, but has {has}"
        yield Problem((), message, f"declare `data.fields.{IMAGE}: {{shape: {wanted}}}`")
        return
    denoiser = spec.networks["main"]
    taken = denoiser.takes(spec) if isinstance(denoiser, Backbone) else spec.conditions
    inputs = (given for name in taken for given in spec.conditions[name].inputs(name, spec))
    if not any(isinstance(given, GivenInput) and given.field == IMAGE for given in inputs):
        mend = "add `conditioning.features: {kind: encoded, network: autoencoder}` to the conditions of `main`"
        message = f"no condition of `main` reads field `{IMAGE}`, so samples would not depend on the image"
        yield Problem((), message, mend)
