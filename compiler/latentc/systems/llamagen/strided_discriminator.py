"""The discriminator of LlamaGen's tokenizer, whose blocks halve the resolution by strided convolutions.

Symbols: B batch, C channels, S side.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components import layers
from latentc.components.blocks.unet.layers import binomial
from latentc.components.networks.style_discriminator import SLOPE, StyleDiscriminator
from latentc.ir.builder import BlockBody, Builder, Var, module_class

INIT = "linear_default"


class StridedDiscriminator(StyleDiscriminator):
    """A style_discriminator whose blocks have a third convolution, of stride 2 after a blur, and shortcuts of stride 2
    without one (LlamaGen's tokenizer, Sun et al. 2024, arXiv:2406.06525).
    """

    kind: Literal["strided_discriminator"]  # type: ignore[assignment]
    blur: Literal[3] = Field(3, description="always 3: the kernel size of the blur")  # type: ignore[assignment]
    INIT: ClassVar[str] = INIT
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "strided_discriminator", "channel_base": 64, "channel_max": 8}

    def block(self) -> BlockBody:
        return _block


@module_class("StyleDiscriminatorBlock", x="B channels H W")
def _block(b: Builder, x: Var, *, channels: int, features: int) -> Var:
    """A residual block whose last convolution halves the resolution after a blur."""
    h = b.leaky_relu(layers.conv(b, "conv1", x, features, 3, INIT, out="h"), slope=SLOPE, out="h")
    h = b.leaky_relu(layers.conv(b, "conv2", h, features, 3, INIT, out="h"), slope=SLOPE, out="h")
    for axis in (2, 3):  # reflect one pixel at each edge
        side = h.shape[axis]
        edges = (b.slice(h, axis=axis, start=i, stop=i + 1, out="edge") for i in (1, int(side) - 2))
        h = b.concat(next(edges), h, next(edges), axis=axis, out="padded")
    h = b.conv(h, binomial(b, h, 1.0, 3), groups=h.shape[1], out="blurred")
    h = layers.conv(b, "down", h, features, 3, INIT, stride=2, out="h")
    shortcut = layers.conv(b, "shortcut", x, features, 1, INIT, stride=2, out="shortcut")
    return b.mul(b.add(shortcut, h), 1 / math.sqrt(2), out="h")
