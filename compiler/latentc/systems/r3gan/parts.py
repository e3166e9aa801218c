"""Blocks of R3GAN's networks, and what both networks say of their stages.

Symbols: B batch, C channels, H and W sides, K classes, E dimension of class embeddings.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache
from typing import Any, ClassVar

from pydantic import Field

from latentc.components import Size
from latentc.components.backbone import Backbone
from latentc.components.condition import Form
from latentc.components.networks._gan import problems_of_class, problems_of_dropping
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import BlockBody, Builder, Var, f32, items, module_class

SLOPE = 0.2  # negative slope of leaky ReLUs
GAIN = math.sqrt(2 / (1 + SLOPE**2))
SIDE = 4
"""Side of the coarsest feature map."""


class Staged(Backbone):
    """A network of stages of residual blocks, whose sides double from 4 pixels on."""

    width: int = Field(gt=0, le=65_536, description="base channels, multiplied by `channel_multipliers`")
    channel_multipliers: tuple[Size, ...] = Field(
        min_length=1, max_length=16, description="channels of each stage, as a multiple of `width`"
    )
    groups: tuple[Size, ...] = Field(
        min_length=1, max_length=16, description="groups of the 3 x 3 convolutions of each stage (cardinality)"
    )
    blocks: tuple[Size, ...] = Field(min_length=1, max_length=16, description="residual blocks of each stage")
    expansion: int = Field(2, gt=0, le=64, description="channels inside a block, as a multiple of those of its stage")
    embedding: int = Field(64, gt=0, le=65_536, description="dimension of the class embedding (E)")
    TAKES: ClassVar[tuple[Form, ...]] = ("vector",)

    def problems(self, spec: Spec) -> Iterator[Problem]:
        side = SIDE << len(self.channel_multipliers) - 1
        if spec.data.shape is None or len(spec.data.shape) != 3:
            yield Problem((), f"a {self.kind} needs images [C, H, W], but the data has {spec.data.words}")
        elif spec.data.shape[1:] != (side, side):
            height, width = spec.data.shape[1:]
            message = f"{len(self.channel_multipliers)} stages double {SIDE} pixels to {side}, not {height} by {width}"
            yield Problem(("channel_multipliers",), message, "give as many multipliers as the side of the data needs")
        for name, found in (("groups", self.groups), ("blocks", self.blocks)):
            if len(found) != len(self.channel_multipliers):
                message = f"{len(found)} stages have `{name}`, but there are {len(self.channel_multipliers)}"
                yield Problem((name,), message, "give one number per stage")
        for multiplier, count in zip(self.channel_multipliers, self.groups, strict=False):
            if (inside := multiplier * self.width * self.expansion) % count:
                yield Problem(("groups",), f"{count} groups do not divide {inside} channels")
        yield from self.problems_of_conditions(spec)
        yield from problems_of_class(self, spec)
        yield from problems_of_dropping(self, spec)

    @property
    def gain(self) -> float:
        """Gain of the initial weights of a block: that of its activation, and 1 / N^(1/4) for N blocks in all."""
        return GAIN * float(sum(self.blocks)) ** -0.25

    def sizes(self) -> dict[str, Any]:
        """Numbers for name maps."""
        return {"stages": len(self.blocks), "last": len(self.blocks) - 1, "blocks": tuple(map(float, self.blocks))}

    def widths(self, width: Any) -> list[Any]:
        """The channels of each stage."""
        return [multiplier * width for multiplier in self.channel_multipliers]


def conv(b: Builder, name: str, x: Var, features: Any, kernel: int, gain: float = 1.0, groups: Any = 1) -> Var:
    """A convolution of x [B, C, H, W] without bias; weights start with a deviation of gain / sqrt(fan in)."""
    inside = x.shape[1] if groups == 1 else x.shape[1] // groups
    start: dict[str, Any] = {"gain": gain} if gain else {}
    shape = f32(features, inside, kernel, kernel)
    weight = b.param(f"{name}.weight", shape, "kaiming_normal" if gain else "zeros", **start)
    if groups == 1:
        return b.conv(x, weight, padding=kernel // 2, out="h")
    return b.conv(x, weight, padding=kernel // 2, groups=groups, out="h")


def linear(b: Builder, name: str, x: Var, features: Any) -> Var:
    """A linear layer of x [B, C] without bias, which keeps the variance at the start."""
    weight = b.param(f"{name}.weight", f32(features, x.shape[1]), "kaiming_normal", gain=1.0)
    return b.linear(x, weight, out="h")


def embedded(b: Builder, y: Var, classes: Any, dim: Any, gain: float = 1.0) -> Var:
    """Embeddings f32[B, E] of classes y, by a linear layer of their one-hot codes."""
    table = b.param("embedding.weight", f32(dim, classes), "kaiming_normal", gain=gain)
    return b.embedding(b.transpose(table, perm=(1, 0), out="table"), y, out="embedded")


@cache
def residual_block(gain: float) -> BlockBody:
    """The block whose first two convolutions start with a gain, the last with zeros: f32[B, C, H, W] of that shape."""

    @module_class("GroupedResidualBlock", x="B channels H W")
    def forward(b: Builder, x: Var, *, channels: int, hidden: int, groups: int) -> Var:
        """x plus three convolutions, the middle one in groups, with biases and activations between them."""
        h = _active(b, "first_bias", conv(b, "expand", x, hidden, 1, gain))
        h = _active(b, "second_bias", conv(b, "mix", h, hidden, 3, gain, groups))
        return b.add(x, conv(b, "contract", h, channels, 1, 0.0), out="x")

    return forward


def _active(b: Builder, name: str, x: Var) -> Var:
    bias = b.param(name, f32(x.shape[1]), "zeros")
    h = b.add(x, b.reshape(bias, shape=(1, x.shape[1], 1, 1)), out="h")
    return b.leaky_relu(h, slope=SLOPE, out="h")


def run_blocks(b: Builder, x: Var, count: int, gain: float, hidden: Any, groups: Any) -> Var:
    """The residual blocks of a stage."""
    for name in items("blocks", count):
        x = b.sub(name, residual_block(gain), x, out="x", channels=x.shape[1], hidden=hidden, groups=groups)
    return x
