"""BigGAN-deep's generator.

Symbols: B batch, C channels.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components import layers
from latentc.components.blocks.gan_blocks import NormKind, activated, after_relu
from latentc.components.networks.resnet_generator import ResnetGenerator
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import BlockBody, Builder, Var, module_class

RATIO = 4  # channels of a block over those of its inner convolutions


class DeepGenerator(ResnetGenerator):
    """A resnet_generator whose blocks have four convolutions (BigGAN-deep)."""

    kind: Literal["deep_generator"]  # type: ignore[assignment]
    blocks_per_level: int = Field(2, gt=0, le=64, description="residual blocks per level; the last one upsamples")
    EXAMPLE: ClassVar[dict[str, Any]] = {**ResnetGenerator.EXAMPLE, "kind": "deep_generator"}

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from super().problems(spec)
        if any(m * self.width % RATIO for m in self.channel_multipliers):
            message = f"bottleneck blocks need channels divisible by {RATIO}"
            yield Problem(("width",), message, "choose another `width`")
        if any(after > before for before, after in pairwise(self.channel_multipliers)):
            message = "bottleneck blocks cannot add channels, so no level may have more than the one before"
            yield Problem(("channel_multipliers",), message, "let channels fall, or use `kind: resnet_generator`")

    def per_level(self) -> int:
        return self.blocks_per_level

    def block(self, norm: NormKind, upsamples: bool) -> BlockBody:
        return _block(norm, upsamples, self.weights, self.eps, self.spectral_norm)


@cache
def _block(norm: NormKind, upsamples: bool, init: str, eps: float, spectral: bool) -> BlockBody:
    shapes = {"x": "B channels H W"} | ({"c": "B condition"} if norm == "linear" else {})
    inside = after_relu(init)

    def doubled(b: Builder, x: Var) -> Var:
        return b.upsample_nearest(x, factor=2) if upsamples else x

    @module_class("GeneratorBlock" if upsamples else "GeneratorFlatBlock", **shapes)
    def block(b: Builder, x: Var, c: Var | None = None, *, channels: int, features: int, **sizes: Any) -> Var:
        """Two 3 x 3 convolutions between 1 x 1 ones; the shortcut keeps the first channels of x [B, channels, H, W]."""
        hidden, how = channels // RATIO, (c, norm, init, eps, spectral, sizes)
        h = activated(b, "bn1", x, *how)
        h = layers.conv(b, "conv1", h, hidden, 1, inside, spectral=spectral, out="h")
        h = doubled(b, activated(b, "bn2", h, *how))
        h = layers.conv(b, "conv2", h, hidden, 3, inside, spectral=spectral, out="h")
        h = activated(b, "bn3", h, *how)
        h = layers.conv(b, "conv3", h, hidden, 3, inside, spectral=spectral, out="h")
        h = activated(b, "bn4", h, *how)
        h = layers.conv(b, "conv4", h, features, 1, inside, spectral=spectral, out="h")
        if int(channels) != int(features):
            x = b.slice(x, axis=1, start=0, stop=features, out="x")
        return h + doubled(b, x)

    return block
