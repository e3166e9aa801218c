"""LFDM's flow autoencoder: video as motion of an image, and the image moved by it.

Symbols: B batch, C channels, F frames, H and W sides of images, h and w of the flow, K regions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from latentc.components import Closed, Size
from latentc.components.backbone import Backbone, add_method
from latentc.components.capabilities import Capability, Role
from latentc.components.contract import Network, Port
from latentc.components.kit.frames import as_images
from latentc.components.parts import Problem
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, module_class
from latentc.ir.types import B, TensorType
from latentc.systems.lfdm.parts import blur, gaussian, widths
from latentc.systems.lfdm.regions import background_predictor, flow_predictor, region_predictor
from latentc.systems.lfdm.warping import image_encoder, warp_decoder

if TYPE_CHECKING:
    from latentc.spec.schema import Spec

MOTION = 3
"""Channels of motion: two of flow, one of what is seen."""


class Hourglass(Closed):
    """Halvings and, except for the background, doublings, with a batch norm after each convolution."""

    width: Size = Field(32, description="channels at full size; each halving doubles them")
    most: Size = Field(1024, description="largest number of channels")
    blocks: int = Field(5, gt=0, le=16, description="number of halvings")


class Image(Closed):
    """The encoder of an image and the decoder of its warped features."""

    width: Size = Field(64, description="channels at full size; each halving doubles them")
    most: Size = Field(512, description="largest number of channels")
    halvings: int = Field(2, gt=0, le=8, description="number of halvings")
    blocks: int = Field(6, ge=0, le=64, description="residual blocks at the smallest size")


class FlowAutoencoder(Backbone):
    """Takes an image f32[B, C, H, W] in [-1, 1] and video f32[B, C, F, H, W]; returns motion f32[B, 3, F, h, w].

    Motion, with the image, becomes video. `encode` returns features of the image f32[B, D, H / 2^n, W / 2^n]. Data
    may be images, too, which are video of one frame.
    """

    kind: Literal["flow_autoencoder"]
    regions: int = Field(10, gt=0, le=1_000, description="number of regions that move affinely (K)")
    factor: int = Field(4, gt=0, le=64, description="pixels of an image per pixel of the flow, along each side")
    temperature: float = Field(0.1, gt=0, description="temperature of the softmax that locates a region")
    region: Hourglass = Field(Hourglass(), description="the network that finds regions")
    flow: Hourglass = Field(Hourglass(width=64), description="the network that joins their motions to a flow")
    background: Hourglass = Field(Hourglass(), description="the network that predicts the background's affine motion")
    image: Image = Field(Image(), description="the encoder and decoder of images")
    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"animate", "encode"})
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "flow_autoencoder",
        "regions": 2,
        "factor": 2,
        "region": {"width": 4, "most": 8, "blocks": 2},
        "flow": {"width": 4, "most": 8, "blocks": 2},
        "background": {"width": 4, "most": 8, "blocks": 2},
        "image": {"width": 4, "most": 8, "halvings": 1, "blocks": 1},
    }

    def problems(self, spec: Spec) -> Iterator[Problem]:
        shape = spec.data.shape
        if shape is None or len(shape) != 4:
            yield Problem((), f"a {self.kind} takes video [C, F, H, W], but the data has {spec.data.words}")
            return
        halved = {
            "region": self.factor * 2**self.region.blocks,
            "flow": self.factor * 2**self.flow.blocks,
            "background": 2**self.background.blocks,
            "image": 2**self.image.halvings,
        }
        for name, multiple in halved.items():
            if shape[2] % multiple or shape[3] % multiple:
                message = f"sides of {shape[2]} and {shape[3]} pixels are no multiples of {multiple}, to which"
                field = "halvings" if name == "image" else "blocks"
                yield Problem((name, field), f"{message} `{name}` reduces them", f"use fewer `{field}`")

    def encoding(self, spec: Spec) -> tuple[tuple[Port, ...], TensorType]:
        image = self._image(spec)
        features = widths(self.image.width, self.image.most, self.image.halvings)[-1]
        sides = (int(side) // 2**self.image.halvings for side in image.shape[2:])  # type: ignore[arg-type]
        return (Port("image", image, "state"),), f32(B, features, *sides)

    def _image(self, spec: Spec) -> TensorType:
        assert spec.data.shape is not None
        return f32(B, spec.data.shape[0], *spec.data.shape[2:])

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        assert spec.data.shape is not None
        _, frames, rows, columns = spec.data.shape
        image = Port("image", self._image(spec), "state")
        other = Port("driving", image.type, "state")
        video = Port("video", f32(B, *spec.data.shape), "state")
        motion = Port("motion", f32(B, MOTION, frames, rows // self.factor, columns // self.factor), "state")
        bodies = _methods(_Parts.of(self))
        ports = {
            "flow": (image, video),
            "animate": (image, motion),
            "transfer": (image, other),
            "regions": (image,),
            "encode": (image,),
        }
        output: Role = "output"
        count = {"transfer": 3, "regions": 2}
        methods = {
            method: add_method(mb, name, method, bodies[method], of, {}, (output,) * count.get(method, 1))
            for method, of in ports.items()
        }
        sigma, reach = blur(self.factor)
        total = gaussian(self.factor).sum() if self.factor > 1 else 1.0
        sizes = {"channels": spec.data.shape[0], "sigma": sigma, "reach": reach, "total": float(total)}
        return Network(name, methods, self.PROVIDES, sizes=sizes)


@dataclass(frozen=True)
class _Parts:
    """The bodies of the parts of a flow autoencoder."""

    regions: BlockBody
    background: BlockBody
    flow: BlockBody
    encoder: BlockBody
    decoder: BlockBody
    levels: str  # names of what the encoder returns

    @classmethod
    def of(cls, config: FlowAutoencoder) -> _Parts:
        def sizes(of: Hourglass) -> tuple[int, int, int]:
            return of.width, of.most, of.blocks

        image = config.image.width, config.image.most, config.image.halvings
        return cls(
            region_predictor(config.regions, *sizes(config.region), config.factor, config.temperature),
            background_predictor(*sizes(config.background)),
            flow_predictor(config.regions, *sizes(config.flow), config.factor),
            image_encoder(*image),
            warp_decoder(*image, config.image.blocks),
            " ".join(f"level_{i}" for i in range(config.image.halvings + 1)),
        )


def _unit(b: Builder, x: Var, out: str) -> Var:
    """Values of [-1, 1] in [0, 1], in which the parts compute."""
    return b.mul(x + 1.0, 0.5, out=out)


def _per_frame(b: Builder, x: Var, frames: int) -> Var:
    """x [B, ...] for each of so many frames: [B F, ...]."""
    if frames == 1:
        return x
    batch, *rest = x.shape
    wide = b.broadcast_to(b.reshape(x, shape=(batch, 1, *rest)), shape=(batch, frames, *rest))
    return b.reshape(wide, shape=(batch * frames, *rest), out=x.value.name)


def _as_video(b: Builder, x: Var, like: Var, out: str) -> Var:
    """Images [B F, C, H, W] as video [B, C, F, H, W], with the batch and frames of another."""
    x = b.reshape(x, shape=(like.shape[0], like.shape[2], *x.shape[1:]), out=out)
    return b.transpose(x, perm=(0, 2, 1, 3, 4), out=out)


@cache
def _methods(parts: _Parts) -> dict[str, BlockBody]:
    def found(b: Builder, image: Var, names: str) -> tuple[Var, Var, Var]:
        shift, covariance, affine = b.sub("region_predictor", parts.regions, image, out=names)
        return shift, covariance, affine

    def between(b: Builder, image: Var, other: Var, of: tuple[Var, ...], to: tuple[Var, ...]) -> tuple[Var, Var]:
        """The flow to another image, and what is seen of it."""
        backdrop = b.sub("background_predictor", parts.background, image, other, out="background")
        flow, visible = b.sub("flow_predictor", parts.flow, image, *of, *to, backdrop, out="flow visible")
        return flow, visible

    @module_class("FlowAutoencoder", "flow", image="B C H W", video="B C F H W")
    def flow(b: Builder, image: Var, video: Var) -> Var:
        """The motion that makes video of an image."""
        frames = int(video.shape[2])
        image, others = _unit(b, image, "image"), as_images(b, _unit(b, video, "others"), "others")
        of = [_per_frame(b, x, frames) for x in found(b, image, "shift covariance affine")]
        to = found(b, others, "to_shift to_covariance to_affine")
        moved, visible = between(b, _per_frame(b, image, frames), others, tuple(of), to)
        motion = b.concat(moved, visible * 2.0 - 1.0, axis=1, out="motion")
        return _as_video(b, motion, video, "motion")

    @module_class("FlowAutoencoder", "animate", image="B C H W", motion="B M F R S")
    def animate(b: Builder, image: Var, motion: Var) -> Var:
        """The video that motion makes of an image."""
        frames, image = int(motion.shape[2]), _unit(b, image, "image")
        levels = b.sub("encoder", parts.encoder, image, out=parts.levels)
        moved, seen = b.split(as_images(b, motion, "moved"), axis=1, sizes=(MOTION - 1, 1), out="flow seen")
        wide = [_per_frame(b, x, frames) for x in (image, *levels)]
        video, _ = b.sub("decoder", parts.decoder, *wide, moved, _unit(b, seen, "visible"), out="video warped")
        return _as_video(b, video * 2.0 - 1.0, motion, "video")

    @module_class("FlowAutoencoder", "transfer", image="B C H W", driving="B C H W")
    def transfer(b: Builder, image: Var, driving: Var) -> tuple[Var, Var, Var]:
        """An image moved to what another shows, and the means and roots of covariances of the other's regions."""
        image, driving = _unit(b, image, "image"), _unit(b, driving, "driving")
        of = found(b, image, "shift covariance affine")
        to = found(b, driving, "to_shift to_covariance to_affine")
        moved, visible = between(b, image, driving, of, to)
        levels = b.sub("encoder", parts.encoder, image, out=parts.levels)
        made, _ = b.sub("decoder", parts.decoder, image, *levels, moved, visible, out="made warped")
        return b.op("sub", made * 2.0, 1.0, out="made"), to[0], to[2]

    @module_class("FlowAutoencoder", "regions", image="B C H W")
    def regions(b: Builder, image: Var) -> tuple[Var, Var]:
        """The means and roots of covariances of an image's regions."""
        shift, _, affine = found(b, _unit(b, image, "image"), "shift covariance affine")
        return shift, affine

    @module_class("FlowAutoencoder", "encode", image="B C H W")
    def encode(b: Builder, image: Var) -> Var:
        """Features of an image at the smallest size."""
        image = _unit(b, image, "image")
        return b.sub("encoder", parts.encoder, image, out=parts.levels)[-1]  # type: ignore[no-any-return]

    return {"flow": flow, "animate": animate, "transfer": transfer, "regions": regions, "encode": encode}
