"""PatchGAN discriminators at several resolutions, as pix2pixHD has them.

Not `patch_discriminator`: several of them, which take maps and return the features of their layers.
Symbols: B batch, C channels of the image, D channels of image and maps, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.backbone import Backbone, add_method
from latentc.components.capabilities import Capability, Role
from latentc.components.condition import Entry, Form, ports_of
from latentc.components.contract import Network, Port
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, items, module_class
from latentc.ir.types import B
from latentc.systems.pix2pixhd.parts import conv, halved, joined_maps, normed

SIDE, PADDING, SLOPE = 4, 2, 0.2
"""Side of every kernel, zeros at every edge, slope of the leaky ReLUs."""


class MultiscaleDiscriminator(Backbone):
    """Scores patches of an image and its maps at several resolutions (pix2pixHD, arXiv:1711.11585, section 3.2).

    Takes x f32[B, C, H, W] and maps; returns, for each of `scales` PatchGANs, the outputs of its `depth` + 2 layers, of
    which the last f32[B, 1, h, w] is the score. Each scale sees half the resolution of the one before.
    """

    kind: Literal["multiscale_discriminator"]
    width: int = Field(64, gt=0, le=65_536, description="channels of the first convolution")
    depth: int = Field(3, gt=0, le=12, description="number of stride-2 convolutions per PatchGAN")
    scales: int = Field(2, gt=0, le=8, description="number of PatchGANs, each at half the resolution of the one before")
    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"discriminate_scales"})
    TAKES: ClassVar[tuple[Form, ...]] = ("map",)
    TRAINING_ONLY: ClassVar[bool] = True
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "multiscale_discriminator", "width": 4, "depth": 1, "scales": 2}

    def problems(self, spec: Spec) -> Iterator[Problem]:
        shape = spec.data.shape
        if shape is None or len(shape) != 3:
            yield Problem((), f"a {self.kind} takes arrays [C, H, W], but the data has {spec.data.words}")
        elif min(shape[1:]) >> (self.scales - 1) < 2:
            message = f"sides of {shape[1]} and {shape[2]} cannot be halved {self.scales - 1} times, to at least 2"
            yield Problem(("scales",), message, "use fewer")
        yield from self.problems_of_conditions(spec)

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        assert spec.data.shape is not None
        entries = self.entries(spec)
        ports = (Port("x", f32(B, *spec.data.shape), "state"), *ports_of(entries))
        static = {"channels": spec.data.shape[0], "width": self.width, **self.condition_sizes(spec)}
        roles: list[Role] = ["output"] * (self.scales * (self.depth + 2))
        body = _forward(self.depth, self.scales, entries)
        forward = add_method(mb, name, "forward", body, ports, static, roles)
        return Network(name, {"forward": forward}, self.PROVIDES, sizes={"scales": self.scales, "depth": self.depth})


@cache
def _forward(depth: int, scales: int, entries: tuple[Entry, ...]) -> BlockBody:
    patches = _patches(depth)

    @module_class("MultiscaleDiscriminator", x="B channels H W")
    def forward(b: Builder, x: Var, *conditions: Var, channels: int, width: int, **sizes: Any) -> tuple[Var, ...]:
        """The outputs of every layer at every scale, of images x and their maps."""
        if entries:
            maps = joined_maps(b, entries, conditions, sizes, int(x.shape[2]))
            x = b.concat(maps, x, axis=1, out="x")
        inputs, found = x.shape[1], list[Var]()
        for i, name in enumerate(items("scales", scales)):
            x = halved(b, x) if i else x
            names = " ".join(f"scale_{i}_layer_{layer}" for layer in range(depth + 2))
            found += b.sub(name, patches, x, out=names, width=width, inputs=inputs)
        return tuple(found)

    return forward


@cache
def _patches(depth: int) -> BlockBody:
    @module_class("PatchDiscriminator", x="B inputs H W")
    def forward(b: Builder, x: Var, *, width: int, inputs: int) -> tuple[Var, ...]:
        """The outputs of all layers, of which the last is a score for each patch of x."""
        h = b.leaky_relu(conv(b, "layers.0", x, width, SIDE, stride=2, padding=PADDING), slope=SLOPE, out="h")
        found = [h]
        for i in range(1, depth + 1):
            features, stride = min(2**i, 8) * width, 2 if i < depth else 1
            h = normed(b, conv(b, f"layers.{i}", h, features, SIDE, stride=stride, padding=PADDING))
            h = b.leaky_relu(h, slope=SLOPE, out="h")
            found.append(h)
        return (*found, conv(b, f"layers.{depth + 1}", h, 1, SIDE, "score", padding=PADDING))

    return forward
