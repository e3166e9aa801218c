"""The generators of pix2pixHD: images made of maps, without noise.

Not `resnet_generator`, which spreads a vector of noise: maps are compressed, transformed and spread again.
Symbols: B batch, C channels of the image, D channels of the maps, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.backbone import Backbone, add_method
from latentc.components.capabilities import Capability
from latentc.components.condition import Entry, Form, ports_of
from latentc.components.contract import Network
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, items, module_class
from latentc.systems.pix2pixhd.parts import (
    conv,
    doubled,
    halved,
    joined_maps,
    reflected_conv,
    relu_normed,
    resnet_block,
)


class GlobalGenerator(Backbone):
    """Makes x f32[B, C, H, W] between -1 and 1 of maps (pix2pixHD, Wang et al. 2018, arXiv:1711.11585, section 3.1).

    A convolution, `depth` that halve the sides, `blocks` residual blocks, and the same way back; all padded by
    reflection but those that change the sides, and with instance norms.
    """

    kind: Literal["global_generator"]
    width: int = Field(64, gt=0, le=65_536, description="channels of the first convolution, doubled at each level")
    depth: int = Field(4, gt=0, le=12, description="number of convolutions that halve the sides")
    blocks: int = Field(9, gt=0, le=512, description="number of residual blocks at the lowest resolution")
    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"render"})
    TAKES: ClassVar[tuple[Form, ...]] = ("map",)
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "global_generator", "width": 4, "depth": 1, "blocks": 1}

    @property
    def halvings(self) -> int:
        """How often the sides are halved."""
        return self.depth

    def problems(self, spec: Spec) -> Iterator[Problem]:
        shape, factor = spec.data.shape, 1 << self.halvings
        if shape is None or len(shape) != 3:
            yield Problem((), f"a {self.kind} makes arrays [C, H, W], but the data has {spec.data.words}")
        elif any(side % factor or side < max(2 * factor, 4) for side in shape[1:]):
            least = max(2 * factor, 4)
            message = f"sides of {shape[1]} and {shape[2]} cannot be halved {self.halvings} times, to at least 2"
            yield Problem(("depth",), message, f"use fewer, or sides that are multiples of {factor}, at least {least}")
        yield from self.problems_of_conditions(spec)
        if not self.takes(spec):
            yield Problem((), f"a {self.kind} makes samples of maps, but takes none", "add a condition `kind: map`")

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        assert spec.data.shape is not None
        entries = self.entries(spec)
        static = {"channels": spec.data.shape[0], "width": self.width, **self.condition_sizes(spec)}
        forward = add_method(mb, name, "forward", self.body(entries, spec.data.shape[1]), ports_of(entries), static)
        return Network(name, {"forward": forward}, self.PROVIDES, sizes=self.counts())

    def counts(self) -> dict[str, int]:
        """Numbers of parts, for name maps."""
        return {"depth": self.depth, "blocks": self.blocks, "local_blocks": 0, "enhancers": 0}

    def body(self, entries: tuple[Entry, ...], height: int) -> BlockBody:
        """The method `forward`."""
        return _global(self.depth, self.blocks, entries, height)


class LocalEnhancer(GlobalGenerator):
    """A global generator at half the resolution, whose features an enhancer joins with those at the whole
    (pix2pixHD, arXiv:1711.11585, section 3.1).
    """

    kind: Literal["local_enhancer"]  # type: ignore[assignment]
    width: int = Field(
        32, gt=0, le=65_536, description="channels of the enhancer's first convolution; the global part has twice those"
    )
    local_blocks: int = Field(3, gt=0, le=512, description="number of residual blocks of the enhancer")
    EXAMPLE: ClassVar[dict[str, Any]] = {**GlobalGenerator.EXAMPLE, "kind": "local_enhancer", "local_blocks": 1}

    @property
    def halvings(self) -> int:
        return self.depth + 1

    def counts(self) -> dict[str, int]:
        return {**super().counts(), "local_blocks": self.local_blocks, "enhancers": 1}

    def body(self, entries: tuple[Entry, ...], height: int) -> BlockBody:
        return _local(self.depth, self.blocks, self.local_blocks, entries, height)


@cache
def _global(depth: int, blocks: int, entries: tuple[Entry, ...], height: int) -> BlockBody:
    features = trunk(depth, blocks)

    @module_class("GlobalGenerator")
    def forward(b: Builder, *conditions: Var, channels: int, width: int, **sizes: Any) -> Var:
        """Images of maps."""
        maps = joined_maps(b, entries, conditions, sizes, height)
        h = b.sub("trunk", features, maps, out="h", width=width, maps=maps.shape[1])
        return b.tanh(reflected_conv(b, "leave", h, channels, 7), out="x")  # type: ignore[no-any-return]

    return forward


@cache
def _local(depth: int, blocks: int, local_blocks: int, entries: tuple[Entry, ...], height: int) -> BlockBody:
    features = trunk(depth, blocks)

    @module_class("LocalEnhancer")
    def forward(b: Builder, *conditions: Var, channels: int, width: int, **sizes: Any) -> Var:
        """Images of maps, by features at half the resolution and at the whole."""
        maps = joined_maps(b, entries, conditions, sizes, height)
        coarse = b.sub("trunk", features, halved(b, maps), out="coarse", width=2 * width, maps=maps.shape[1])
        h = relu_normed(b, reflected_conv(b, "enter", maps, width, 7))
        h = relu_normed(b, conv(b, "down", h, 2 * width, 3, stride=2, padding=1))
        h = b.add(h, coarse, out="h")
        for name in items("blocks", local_blocks):
            h = b.sub(name, resnet_block, h, out="h", dim=2 * width)
        h = doubled(b, "up", h, width)
        return b.tanh(reflected_conv(b, "leave", h, channels, 7), out="x")  # type: ignore[no-any-return]

    return forward


@cache
def trunk(depth: int, blocks: int) -> BlockBody:
    """Maps [B, D, H, W] to features [B, width, H, W], by `depth` halvings and `blocks` residual blocks."""

    @module_class("Trunk", x="B maps H W")
    def features(b: Builder, x: Var, *, width: int, maps: int) -> Var:
        """Features of maps x, at their resolution."""
        h = relu_normed(b, reflected_conv(b, "enter", x, width, 7))
        for i in range(depth):
            h = relu_normed(b, conv(b, f"down.{i}", h, width * 2 ** (i + 1), 3, stride=2, padding=1))
        for name in items("blocks", blocks):
            h = b.sub(name, resnet_block, h, out="h", dim=width * 2**depth)
        for i in range(depth):
            h = doubled(b, f"up.{i}", h, width * 2 ** (depth - i - 1))
        return h

    return features
