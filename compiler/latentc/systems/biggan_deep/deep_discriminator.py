"""BigGAN-deep's discriminator.

Symbols: B batch, C channels.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components import layers
from latentc.components.blocks.gan_blocks import after_relu
from latentc.components.networks.resnet_discriminator import ResnetDiscriminator
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import BlockBody, Builder, Var, module_class
from latentc.systems.biggan_deep.deep_generator import RATIO


class DeepDiscriminator(ResnetDiscriminator):
    """A resnet_discriminator whose blocks have four convolutions, after a convolution of the image (BigGAN-deep)."""

    kind: Literal["deep_discriminator"]  # type: ignore[assignment]
    input_multiplier: int = Field(
        1, gt=0, le=1_024, description="channels of the convolution before the blocks, as a multiple of `width`"
    )
    blocks_per_level: int = Field(2, gt=0, le=64, description="residual blocks per level; the first one downsamples")
    EXAMPLE: ClassVar[dict[str, Any]] = {**ResnetDiscriminator.EXAMPLE, "kind": "deep_discriminator"}

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from super().problems(spec)
        if any(m * self.width % RATIO for m in self.channel_multipliers):
            message = f"bottleneck blocks need channels divisible by {RATIO}"
            yield Problem(("width",), message, "choose another `width`")
        widths = [self.input_multiplier, *self.channel_multipliers]
        if widths != sorted(widths):
            message = "bottleneck blocks cannot reduce channels, so no level may have fewer than the one before"
            yield Problem(("channel_multipliers",), message)

    def per_level(self) -> int:
        return self.blocks_per_level

    def block(self, first: bool, downsamples: bool) -> BlockBody:
        return _block(downsamples, self.weights, self.spectral_norm)

    def enter(self, b: Builder, x: Var, width: Any) -> Var:
        return layers.conv(
            b, "input_conv", x, self.input_multiplier * width, 3, self.weights, spectral=self.spectral_norm
        )


@cache
def _block(downsamples: bool, init: str, spectral: bool) -> BlockBody:
    inside = after_relu(init)

    def halved(b: Builder, x: Var, out: str) -> Var:
        return b.avg_pool(x, size=2, out=out) if downsamples else x

    @module_class("DownBlock" if downsamples else "FlatBlock", x="B channels H W")
    def block(b: Builder, x: Var, *, channels: int, features: int) -> Var:
        """Two 3 x 3 convolutions between 1 x 1 ones; a fifth widens the shortcut of x [B, channels, H, W]."""
        hidden = features // RATIO
        h = layers.conv(b, "conv1", b.relu(x), hidden, 1, inside, spectral=spectral, out="h")
        h = layers.conv(b, "conv2", b.relu(h), hidden, 3, inside, spectral=spectral, out="h")
        h = layers.conv(b, "conv3", b.relu(h), hidden, 3, inside, spectral=spectral, out="h")
        h = halved(b, b.relu(h), "h")
        h = layers.conv(b, "conv4", h, features, 1, inside, spectral=spectral, out="h")
        x = halved(b, x, "x")
        if int(channels) != int(features):
            more = layers.conv(b, "conv_sc", x, features - channels, 1, init, spectral=spectral, out="more")
            x = b.concat(x, more, axis=1, out="x")
        return h + x

    return block
