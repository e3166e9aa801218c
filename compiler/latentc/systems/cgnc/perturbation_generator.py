"""CGNC's generator: what is to be added to an image for a classifier to see a wanted class.

Not pix2pixHD's generators, whose norms have no statistics and which take no text. Symbols: B batch, C channels, H rows,
W columns, E features of the text, Z numbers that it is projected to.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from latentc.components.backbone import Backbone, add_method
from latentc.components.blocks.unet.transformer import MapTransformer
from latentc.components.capabilities import Capability
from latentc.components.condition import Entry, Form, ports_of, with_operands
from latentc.components.contract import Network
from latentc.components.layers import batch_norm, linear
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, module_class

EPS, MOMENTUM = 1e-5, 0.1
"""Of the batch norms."""
DROPOUT = 0.5
"""Share of the features that residual blocks drop between their convolutions."""
HALVINGS = 2
"""How often the sides are halved, and doubled again."""


class PerturbationGenerator(Backbone):
    """A perturbation of images for a wanted class (CGNC, Fang et al. 2024, arXiv:2407.10179, section 3.3).

    Takes an image f32[B, C, H, W] in [-1, 1] and a text's feature f32[B, E]; returns f32[B, C, H, W] in
    [-2 epsilon, 2 epsilon]: tanh, blurred by a Gaussian filter of 3 x 3 pixels, times the bound. The feature is joined
    with the input of the first three convolutions, projected to Z numbers, and attended to between residual blocks.
    """

    kind: Literal["perturbation_generator"]
    width: int = Field(64, gt=0, le=65_536, description="channels of the first convolution; four times as many inside")
    code: int = Field(16, gt=0, le=65_536, description="numbers that the text's feature is projected to (Z)")
    attentions: int = Field(
        2, ge=0, le=64, description="number of transformers; each follows two residual blocks, and two follow the last"
    )
    heads: int = Field(1, gt=0, le=1_024, description="heads of their attention")
    groups: int = Field(32, gt=0, le=1_024, description="groups of the GroupNorm before each transformer")
    epsilon: float = Field(
        16 / 255, gt=0, le=1, description="largest change of a pixel, as a share of the range from black to white"
    )
    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"perturb"})
    TAKES: ClassVar[tuple[Form, ...]] = ("map", "array")
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "perturbation_generator",
        "width": 2,
        "code": 2,
        "attentions": 1,
        "groups": 2,
    }

    @property
    def fixed(self) -> tuple[str, ...]:
        return ("channels",)  # the data's

    def problems(self, spec: Spec) -> Iterator[Problem]:
        shape, factor = spec.data.shape, 1 << HALVINGS
        if shape is None or len(shape) != 3:
            yield Problem((), f"a {self.kind} perturbs images [C, H, W], but the data has {spec.data.words}")
        elif any(side % factor or side < 2 * factor for side in shape[1:]):
            message = f"sides of {shape[1]} and {shape[2]} cannot be halved {HALVINGS} times, to at least 2"
            yield Problem((), message, f"use sides that are multiples of {factor}, at least {2 * factor}")
        yield from self.problems_of_conditions(spec)
        ranks = sorted(len(port.type.shape) for entry in self.entries(spec) for port in entry.ports)
        if ranks != [2, 4] or (shape is not None and self._image(spec) != shape):
            message = f"a {self.kind} takes an image of the data's shape and one vector, the feature of a text"
            mend = "write `conditioning: {image: {kind: map, field: x}, class: {kind: class_text}}`"
            yield Problem((), message, mend)
        for name, parts in (("heads", self.heads), ("groups", self.groups)):
            if self.attentions and 4 * self.width % parts:
                message = f"{parts} {name} do not divide the {4 * self.width} channels of the transformers"
                yield Problem((name,), message, "use a divisor")

    def _image(self, spec: Spec) -> tuple[Any, ...]:
        """The shape of its image; () without one."""
        shapes = [port.type.shape[1:] for entry in self.entries(spec) for port in entry.ports if port.type.rank == 4]
        return shapes[0] if len(shapes) == 1 else ()

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        assert spec.data.shape is not None
        entries = self.entries(spec)
        static = {"channels": spec.data.shape[0], "width": self.width, "code": self.code, "heads": self.heads}
        body = _forward(self.attentions, self.groups, self.epsilon, entries, spec.data.shape[1])
        forward = add_method(mb, name, "forward", body, ports_of(entries), static)
        sizes = {"attentions": self.attentions, "blocks": 2 * (self.attentions + 1)}
        return Network(name, {"forward": forward}, self.PROVIDES, sizes=sizes)


@cache
def _forward(attentions: int, groups: int, epsilon: float, entries: tuple[Entry, ...], height: int) -> BlockBody:
    @module_class("PerturbationGenerator")
    def forward(b: Builder, *conditions: Var, channels: int, width: int, code: int, heads: int) -> Var:
        """The perturbation, to be added to an image."""
        given = dict(with_operands(entries, conditions))
        (image,) = (entry.map(b, own, {}, height) for entry, own in given.items() if entry.form == "map")
        ((text,),) = (own for entry, own in given.items() if entry.form == "array")
        z = linear(b, "project", text, code, "linear_default", bias=False, spectral=True, out="z")
        h = b.mul(image + 1.0, 0.5, out="h")
        h = relu_normed(b, "enter_norm", conv(b, "enter", b.reflect_pad(_beside(b, h, z), size=3), width, 7))
        for i in range(HALVINGS):
            h = conv(b, f"down.{i}", _beside(b, h, z), width * 2 ** (i + 1), 3, stride=2, padding=1)
            h = relu_normed(b, f"down_norms.{i}", h)
        context = (b.reshape(text, shape=(text.shape[0], 1, text.shape[1]), out="context"),)
        for i in range(attentions + 1):
            for j in range(2):
                h = b.sub(f"blocks.{2 * i + j}", residual_block, h, out="h", dim=4 * width)
            if i < attentions:
                h = MapTransformer().apply(b, f"transformers.{i}", h, context, heads, groups, "torch")
        for i in reversed(range(HALVINGS)):
            h = relu_normed(b, f"up_norms.{HALVINGS - 1 - i}", doubled(b, f"up.{HALVINGS - 1 - i}", h, width * 2**i))
        h = conv(b, "leave", b.reflect_pad(h, size=3), channels, 7, bias=True)
        return b.mul(blurred(b, b.tanh(h, out="h")), 2 * epsilon, out="perturbation")  # type: ignore[no-any-return]

    return forward


def _beside(b: Builder, x: Var, z: Var) -> Var:
    """x f32[B, C, H, W] and z f32[B, Z] at every pixel: f32[B, C + Z, H, W]."""
    batch, _, height, width = x.shape
    everywhere = b.reshape(z, shape=(batch, z.shape[1], 1, 1))
    everywhere = b.broadcast_to(everywhere, shape=(batch, z.shape[1], height, width), out="everywhere")
    return b.concat(x, everywhere, axis=1, out="h")  # type: ignore[no-any-return]


def conv(b: Builder, name: str, x: Var, features: Any, kernel: int, bias: bool = False, **how: Any) -> Var:
    """A convolution that starts as PyTorch's."""
    fan_in = x.shape[1] * kernel**2
    weight = b.param(f"{name}.weight", f32(features, x.shape[1], kernel, kernel), "linear_default", fan_in=fan_in)
    biases = [b.param(f"{name}.bias", f32(features), "linear_default", fan_in=fan_in)] if bias else []
    return b.conv(x, weight, *biases, out="h", **how)  # type: ignore[no-any-return]


def doubled(b: Builder, name: str, x: Var, features: Any) -> Var:
    """A transposed convolution that doubles the sides of x; PyTorch takes its outputs for the fan-in."""
    weight = b.param(f"{name}.weight", f32(x.shape[1], features, 3, 3), "linear_default", fan_in=features * 9)
    return b.conv_transpose(x, weight, stride=2, padding=1, output_padding=1, out="h")  # type: ignore[no-any-return]


def relu_normed(b: Builder, name: str, x: Var) -> Var:
    """A ReLU of x, normalised by channel."""
    return b.relu(batch_norm(b, name, x, True, EPS, MOMENTUM), out="h")  # type: ignore[no-any-return]


@module_class("ResidualBlock", x="B dim H W")
def residual_block(b: Builder, x: Var, *, dim: int) -> Var:
    """A residual block of two convolutions."""
    h = relu_normed(b, "norm1", conv(b, "conv1", b.reflect_pad(x, size=1), dim, 3))
    h = b.dropout(h, p=DROPOUT, out="h")
    return x + batch_norm(b, "norm2", conv(b, "conv2", b.reflect_pad(h, size=1), dim, 3), True, EPS, MOMENTUM)


def blurred(b: Builder, x: Var) -> Var:
    """Each channel of x under a Gaussian filter of 3 x 3 pixels with a deviation of one; 0 beyond the edges."""
    line = np.array([math.exp(-0.5), 1.0, math.exp(-0.5)])
    window = np.outer(line, line) / line.sum() ** 2
    batch, channels, height, width = x.shape
    each = b.reshape(x, shape=(batch * channels, 1, height, width), out="each")
    each = b.conv(each, b.constant(window[None, None], "f32", out="window"), padding=1, out="each")
    return b.reshape(each, shape=x.shape, out="blurred")  # type: ignore[no-any-return]
