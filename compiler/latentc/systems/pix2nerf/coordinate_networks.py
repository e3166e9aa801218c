"""The discriminator and the encoder of Pix2NeRF: residual convolutions that see where each pixel is.

Symbols: B batch, C colours, H rows and columns, Z dimension of the latent z.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from latentc.components.backbone import Backbone, add_method
from latentc.components.capabilities import Capability
from latentc.components.condition import Condition, Entry, Form, Pair, ports_of, with_operands
from latentc.components.contract import Network, Port
from latentc.components.networks._gan import problems_of_dropping, problems_of_index
from latentc.components.parts import Problem, Spec
from latentc.components.sums import summed
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, items, module_class
from latentc.ir.types import B
from latentc.systems.pix2nerf.camera import Camera

SLOPE = 0.2
KAIMING: dict[str, Any] = {"init": "kaiming_normal", "gain": math.sqrt(2 / (1 + SLOPE**2))}
"""Initial weights of the convolutions within residual blocks."""


class CoordinateNetwork(Backbone):
    """A network of residual blocks that halve an image down to 2 by 2 features, and a layer over these.

    Convolutions also see the row and the column of each pixel (CoordConv, Liu et al. 2018, arXiv:1807.03247).
    """

    kind: str
    widths: tuple[Annotated[int, Field(gt=0, le=65_536)], ...] = Field(
        (128, 256, 400, 400, 400, 400),
        min_length=2,
        max_length=12,
        description="channels of the first layer, and of each block, which halves the sides",
    )
    TAKES: ClassVar[tuple[Form, ...]] = ("vector",)

    def takes(self, spec: Spec) -> dict[str, Condition]:
        """All conditions but the camera, which it finds."""
        taken = super().takes(spec)
        if self.conditions is None:
            taken = {name: condition for name, condition in taken.items() if not isinstance(condition, Camera)}
        return taken

    def problems(self, spec: Spec) -> Iterator[Problem]:
        shape = spec.data.shape
        if shape is None or len(shape) != 3 or shape[1] != shape[2]:
            yield Problem((), f"a {self.kind} takes square images, but the data has {spec.data.words}")
        elif shape[1] != 2 ** len(self.widths):
            message = f"{len(self.widths) - 1} blocks need images of {2 ** len(self.widths)} pixels per side"
            yield Problem(("widths",), f"{message}, not {shape[1]}", "give one block per halving, down to 2 by 2")
        yield from self.problems_of_conditions(spec)
        yield from problems_of_index(self, spec)
        yield from problems_of_dropping(self, spec)

    def built(self, mb: ModuleBuilder, name: str, spec: Spec, body: BlockBody, more: dict[str, int]) -> Network:
        """The network whose method `forward` has this body."""
        assert spec.data.shape is not None
        entries = self.entries(spec)
        ports = (Port("x", f32(B, *spec.data.shape), "state"), *ports_of(entries))
        widths = {f"width_{i}": width for i, width in enumerate(self.widths)}
        static = {"channels": spec.data.shape[0], **widths, **more, **self.condition_sizes(spec)}
        forward = add_method(mb, name, "forward", body, ports, static, ("output", "output"))
        depth = len(self.widths) - 1
        # The authors number their layers from the largest image that they provide for: 256 pixels per side.
        return Network(name, {"forward": forward}, self.PROVIDES, sizes={"depth": depth, "first": 7 - depth})


class CameraDiscriminator(CoordinateNetwork):
    """Scores x f32[B, C, H, H] and finds its camera: `score` f32[B, 1], `camera` f32[B, 2] (pi-GAN; Pix2NeRF).

    Conditions enter by projection: their embeddings times the features, averaged over pixels.
    """

    kind: Literal["camera_discriminator"]  # type: ignore[assignment]
    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"discriminate_views"})
    OUTPUTS = ("score", "camera")
    TRAINING_ONLY: ClassVar[bool] = True
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "camera_discriminator", "widths": [4, 6, 6]}

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        return self.built(mb, name, spec, _discriminator(len(self.widths) - 1, self.entries(spec)), {})


class FieldEncoder(CoordinateNetwork):
    """Finds the latent z f32[B, Z] between -1 and 1 and the camera f32[B, 2] of x f32[B, C, H, H] (Pix2NeRF).

    Conditions are embedded and added to the features at 2 by 2 pixels.
    """

    kind: Literal["field_encoder"]  # type: ignore[assignment]
    latent_dim: int = Field(512, gt=0, le=65_536, description="dimension of the latent z (Z)")
    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"find_views"})
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "field_encoder", "widths": [4, 6, 6], "latent_dim": 4}

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        body = _encoder(len(self.widths) - 1, self.entries(spec))
        return self.built(mb, name, spec, body, {"latent_dim": self.latent_dim})


def _known(b: Builder, given: Iterator[Pair], width: Any, sizes: dict[str, Any]) -> Var | None:
    """f32[B, width]: the sum of the embeddings of the conditions, if there are any."""
    found = [entry.vector(b, entry.prefix, operands, width, sizes) for entry, operands in given]
    return summed(b, "known", found) if found else None


def _trunk(b: Builder, x: Var, depth: int, sizes: dict[str, Any]) -> Var:
    """Features f32[B, width, 2, 2], as wide as the last block."""
    h = _conv(b, "enter", x, sizes["width_0"], 1, init="linear_default", fan_in=x.shape[1])
    h = b.leaky_relu(h, slope=SLOPE, out="h")
    for i, name in enumerate(items("layers", depth)):
        h = b.sub(name, _block, h, out="h", inputs=h.shape[1], width=sizes[f"width_{i + 1}"])
    return h


def _leave(b: Builder, h: Var, numbers: Any, out: str) -> Var:
    """f32[B, numbers] of all features [B, C, 2, 2]."""
    found = _conv(b, "leave", h, numbers, 2, init="linear_default", fan_in=h.shape[1] * 4)
    return b.reshape(found, shape=(h.shape[0], numbers), out=out)  # type: ignore[no-any-return]


@cache
def _discriminator(depth: int, entries: tuple[Entry, ...]) -> BlockBody:
    @module_class("CameraDiscriminator", x="B channels H W")
    def forward(b: Builder, x: Var, *conditions: Var, channels: int, **sizes: Any) -> tuple[Var, ...]:
        """Scores and cameras of images x."""
        h = _trunk(b, x, depth, sizes)
        names = "unconditional camera" if entries else "score camera"
        score, camera = b.split(_leave(b, h, 3, "found"), axis=1, sizes=(1, 2), out=names)
        known = _known(b, with_operands(entries, conditions), h.shape[1], sizes)
        if known is not None:
            features = b.mean(h, axes=(2, 3), keepdims=False, out="features")
            score = b.add(score, b.sum(known * features, axes=(1,), keepdims=True), out="score")
        return score, camera

    return forward


@cache
def _encoder(depth: int, entries: tuple[Entry, ...]) -> BlockBody:
    @module_class("FieldEncoder", x="B channels H W")
    def forward(b: Builder, x: Var, *conditions: Var, channels: int, latent_dim: int, **sizes: Any) -> tuple[Var, ...]:
        """Latents and cameras of images x."""
        h = _trunk(b, x, depth, sizes)
        known = _known(b, with_operands(entries, conditions), h.shape[1], sizes)
        if known is not None:
            h = b.add(h, b.reshape(known, shape=(*known.shape, 1, 1)), out="h")
        found = _leave(b, h, latent_dim + 2, "found")
        latent, camera = b.split(found, axis=1, sizes=(latent_dim, 2), out="unbounded camera")
        return b.tanh(latent, out="latent"), camera

    return forward


@module_class("CoordinateBlock", x="B inputs H W")
def _block(b: Builder, x: Var, *, inputs: int, width: int) -> Var:
    """Halves the sides: two convolutions that see coordinates, beside a shortcut."""
    h = b.leaky_relu(_conv(b, "conv1", _with_coordinates(b, x), width, 3, padding=1, **KAIMING), slope=SLOPE, out="h")
    h = _conv(b, "conv2", _with_coordinates(b, h), width, 3, stride=2, padding=1, **KAIMING)
    h = b.leaky_relu(h, slope=SLOPE, out="h")
    skip = _conv(b, "skip", x, width, 1, out="skip", stride=2, init="linear_default", fan_in=x.shape[1])
    return b.mul(h + skip, 1 / math.sqrt(2), out="h")  # type: ignore[no-any-return]


def _with_coordinates(b: Builder, x: Var) -> Var:
    """x f32[B, C, H, H] and two more channels: the row and the column of each pixel, from -1 to 1."""
    batch, _, side, _ = x.shape
    line = np.linspace(-1, 1, int(side))
    both = b.constant(np.stack(np.meshgrid(line, line, indexing="ij"))[None], "f32", out="coordinates")
    return b.concat(x, b.broadcast_to(both, x, shape=(batch, 2, side, side)), axis=1, out="h")  # type: ignore[no-any-return]


def _conv(
    b: Builder,
    name: str,
    x: Var,
    features: Any,
    kernel: int,
    out: str = "h",
    stride: int = 1,
    padding: int = 0,
    *,
    init: str,
    **args: Any,
) -> Var:
    """A convolution with a bias, which starts as PyTorch's."""
    weight = b.param(f"{name}.weight", f32(features, x.shape[1], kernel, kernel), init, **args)
    bias = b.param(f"{name}.bias", f32(features), "linear_default", fan_in=x.shape[1] * kernel**2)
    return b.conv(x, weight, bias, stride=stride, padding=padding, out=out)  # type: ignore[no-any-return]
