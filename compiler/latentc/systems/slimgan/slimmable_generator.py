"""A generator of residual blocks that runs at several widths, as SlimGAN has it.

Not `resnet_generator`: narrow widths use the first channels of every weight, and norms of their own. Symbols: B batch,
C channels of the image, S side, Z dimension of the latent.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from functools import cache
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from latentc.components import layers
from latentc.components.backbone import Backbone, add_method
from latentc.components.blocks.gan_blocks import MOMENTUM
from latentc.components.capabilities import Capability
from latentc.components.contract import Network, Port
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, module_class
from latentc.ir.types import B

EPS, FIRST = 1e-5, 4  # of batch norms; side of the first feature map
Width = Annotated[float, Field(gt=0, le=1)]


def width_method(number: int, widths: int) -> str:
    """The method of the generator at one of its widths: `forward` at the last, the whole width."""
    return "forward" if number == widths - 1 else f"forward_{number}"


class SlimmableGenerator(Backbone):
    """One generator at several widths (SlimGAN, Hou et al. 2021, arXiv:2012.05660): SNGAN's, without classes.

    z f32[B, Z] -> f32[B, C, S, S] between -1 and 1. A width of 0.5 uses the first half of all channels; each width has
    batch norms of its own. The sampler's `width` chooses one.
    """

    kind: Literal["slimmable_generator"]
    width: int = Field(256, gt=0, le=65_536, description="channels of all feature maps at width 1")
    widths: tuple[Width, ...] = Field(
        (0.25, 0.5, 0.75, 1.0), min_length=2, max_length=16, description="widths, in increasing order; the last is 1"
    )
    latent_dim: int = Field(128, gt=0, le=65_536, description="dimension of the latent z (Z)")
    upsampling: Literal["bilinear", "nearest"] = Field("bilinear", description="how blocks double the resolution")
    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"generate", "generate_at_widths"})
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "slimmable_generator",
        "width": 8,
        "widths": [0.5, 1.0],
        "latent_dim": 6,
    }

    def problems(self, spec: Spec) -> Iterator[Problem]:
        shape = spec.data.shape
        if shape is None or len(shape) != 3 or shape[1] != shape[2]:
            yield Problem((), f"a {self.kind} makes square images [C, S, S], but the data has {spec.data.words}")
        elif shape[1] < 2 * FIRST or shape[1] & (shape[1] - 1):
            message = f"a {self.kind} doubles {FIRST} by {FIRST} pixels, which never gives {shape[1]} by {shape[1]}"
            yield Problem((), message, f"use a side that is a power of 2, at least {2 * FIRST}")
        if list(self.widths) != sorted(set(self.widths)) or self.widths[-1] != 1:
            yield Problem(("widths",), "widths must increase and end with 1", "for example `[0.25, 0.5, 0.75, 1.0]`")
        for i, share in enumerate(self.widths):
            if (self.width * Fraction(share).limit_denominator(4_096)).denominator != 1:
                yield Problem(
                    ("widths", i), f"{share} of {self.width} channels is no whole number", "use another share"
                )
        yield from self.problems_of_conditions(spec)

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        assert spec.data.shape is not None
        channels, side, _ = spec.data.shape
        static = {"latent_dim": self.latent_dim, "width": self.width, "channels": channels}
        ports, levels = (Port("z", f32(B, self.latent_dim), "noise"),), (side // FIRST).bit_length() - 1
        methods = {}
        for i, share in enumerate(self.widths):
            method = width_method(i, len(self.widths))
            body = _network(levels, method, i, Fraction(share).limit_denominator(4_096), self.upsampling)
            methods[method] = add_method(mb, name, method, body, ports, static)
        return Network(name, methods, self.PROVIDES, sizes={"widths": len(self.widths)})


def _of(share: Fraction, size: Any) -> Any:
    """A share of a size."""
    return size if share == 1 else size * share.numerator // share.denominator


def _conv(b: Builder, name: str, x: Var, sizes: tuple[Any, Any], shown: tuple[Any, Any], kernel: int, init: str) -> Var:
    """A convolution by the first `shown` (output, input) channels of a weight of `sizes`."""
    kind, args = layers.INITS[init]
    weight = b.param(f"{name}.weight", f32(*sizes, kernel, kernel), kind, **args)
    bias = b.param(f"{name}.bias", f32(sizes[0]), "zeros")
    return b.conv(x, *_first(b, weight, bias, shown), padding=kernel // 2, out="h")


def _first(b: Builder, weight: Var, bias: Var, shown: tuple[Any, Any]) -> tuple[Var, Var]:
    """The first rows and columns of a weight, and the first numbers of a bias."""
    for axis, size in enumerate(shown):
        if int(weight.shape[axis]) != int(size):
            weight = b.slice(weight, axis=axis, start=0, stop=size, out="weight")
    if int(bias.shape[0]) != int(shown[0]):
        bias = b.slice(bias, axis=0, start=0, stop=shown[0], out="bias")
    return weight, bias


def _norm(b: Builder, name: str, x: Var, size: Any) -> Var:
    return b.relu(layers.batch_norm(b, name, x, affine=True, eps=EPS, momentum=MOMENTUM, size=size), out="h")


@cache
def _network(levels: int, method: str, number: int, share: Fraction, upsampling: str) -> BlockBody:
    block = _block(method, number, share, upsampling)

    @module_class("SlimmableGenerator", method, z="B latent_dim")
    def forward(b: Builder, z: Var, *, latent_dim: int, width: int, channels: int) -> Var:
        """Makes images out of noise z, by a part of the channels."""
        own, area = _of(share, width), FIRST * FIRST
        weight = b.param("linear.weight", f32(width * area, latent_dim), "xavier_uniform")
        bias = b.param("linear.bias", f32(width * area), "zeros")
        h = b.linear(z, *_first(b, weight, bias, (own * area, latent_dim)), out="h")
        h = b.reshape(h, shape=(z.shape[0], own, FIRST, FIRST), out="h")
        for level in range(levels):
            h = b.sub(f"blocks.{level}", block, h, out="h", channels=width, side=FIRST << (level + 1))
        h = _norm(b, f"norms.{number}", h, own)
        return b.tanh(_conv(b, "output", h, (channels, width), (channels, own), 3, "xavier"), out="x")

    return forward


@cache
def _block(method: str, number: int, share: Fraction, upsampling: str) -> BlockBody:
    def doubled(b: Builder, x: Var, side: int) -> Var:
        if upsampling == "nearest":
            return b.upsample_nearest(x, factor=2)
        return b.resize(x, size=side, mode="bilinear")

    @module_class("SlimmableBlock", method, x="B C H W")
    def forward(b: Builder, x: Var, *, channels: int, side: int) -> Var:
        """Two convolutions with a shortcut, by a part of the channels; doubles the resolution to `side`."""
        sizes, shown = (channels, channels), (_of(share, channels),) * 2
        h = doubled(b, _norm(b, f"bn1.{number}", x, shown[0]), side)
        h = _conv(b, "conv1", h, sizes, shown, 3, "xavier_relu")
        h = _conv(b, "conv2", _norm(b, f"bn2.{number}", h, shown[0]), sizes, shown, 3, "xavier_relu")
        return b.add(h, _conv(b, "conv_sc", doubled(b, x, side), sizes, shown, 1, "xavier"), out="h")

    return forward
