"""Residual blocks of GANs: those of generators are normalised and may upsample, those of discriminators downsample.

They have two convolutions (SNGAN, WGAN-GP, BigGAN). Symbols: B batch, C channels.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Literal

from latentc.components import layers
from latentc.ir.builder import BlockBody, Builder, Var, module_class

NormKind = Literal["linear", "table", "plain"]
"""Where the scale and shift of a batch norm come from: a linear layer of a condition vector, a table with a row per
class, or learned values."""

MOMENTUM = 0.1  # of running statistics


def after_relu(init: str) -> str:
    """Initialisation of a convolution after a ReLU: Xavier with gain sqrt(2)."""
    return "xavier_relu" if init == "xavier" else init


def activated(
    b: Builder, name: str, x: Var, c: Var | None, norm: NormKind, init: str, eps: float, spectral: bool, sizes: Any
) -> Var:
    """ReLU of the batch norm of x f32[B, C, H, W]; c the condition vector or the class, None for a plain norm."""
    if c is None:
        return b.relu(layers.batch_norm(b, name, x, affine=True, eps=eps, momentum=MOMENTUM))
    body = conditional_norm(norm, init, eps, spectral)
    return b.relu(b.sub(name, body, x, c, out="h", channels=x.shape[1], **sizes))


@cache
def generator_block(norm: NormKind, upsamples: bool, init: str, eps: float, spectral: bool) -> BlockBody:
    """A residual block of a generator: `block(x, c)`, c the condition vector or the class; no c for a plain norm."""
    shapes = {"x": "B channels H W"} | ({"c": "B condition"} if norm == "linear" else {})
    inside = after_relu(init)

    def doubled(b: Builder, x: Var) -> Var:
        return b.upsample_nearest(x, factor=2) if upsamples else x

    @module_class("GeneratorBlock" if upsamples else "GeneratorFlatBlock", **shapes)
    def block(b: Builder, x: Var, c: Var | None = None, *, channels: int, features: int, **sizes: Any) -> Var:
        """Two convolutions with a shortcut; x [B, channels, H, W]."""
        h = doubled(b, activated(b, "bn1", x, c, norm, init, eps, spectral, sizes))
        h = layers.conv(b, "conv1", h, features, 3, inside, spectral=spectral, out="h")
        h = activated(b, "bn2", h, c, norm, init, eps, spectral, sizes)
        h = layers.conv(b, "conv2", h, features, 3, inside, spectral=spectral, out="h")
        if upsamples or int(channels) != int(features):
            x = layers.conv(b, "conv_sc", doubled(b, x), features, 1, init, spectral=spectral, out="shortcut")
        return h + x

    return block


@cache
def conditional_norm(norm: NormKind, init: str, eps: float, spectral: bool) -> BlockBody:
    """A batch norm whose scale and shift come from a condition vector or, with `norm` table, from the class."""

    def scaled(b: Builder, x: Var, gain: Var, bias: Var) -> Var:
        return layers.batch_norm(b, "norm", x, affine=False, eps=eps, momentum=MOMENTUM) * (gain + 1.0) + bias

    def column(b: Builder, name: str, h: Var) -> Var:
        return b.reshape(h, shape=(*h.shape, 1, 1), out=name)

    @module_class("ConditionalBatchNorm2d", x="B channels H W", c="B condition")
    def of_vector(b: Builder, x: Var, c: Var, *, channels: int, condition: int) -> Var:
        """Batch norm of x [B, C, H, W] whose scale and shift are linear in the condition c."""

        def of(name: str) -> Var:
            return column(b, name, layers.linear(b, name, c, channels, init, bias=False, spectral=spectral))

        gain, bias = of("gain"), of("bias")
        return scaled(b, x, gain, bias)

    @module_class("ClassBatchNorm2d", x="B channels H W")
    def of_class(b: Builder, x: Var, c: Var, *, channels: int, classes: int) -> Var:
        """Batch norm of x [B, C, H, W] with a scale and a shift per class; c i64[B]."""
        start = "zeros" if init == "xavier" else init

        def of(name: str) -> Var:
            return column(b, name, layers.embedding(b, name, c, classes, channels, start))

        gain, bias = of("gain"), of("bias")
        return scaled(b, x, gain, bias)

    return of_class if norm == "table" else of_vector


@cache
def discriminator_block(first: bool, downsamples: bool, init: str, spectral: bool) -> BlockBody:
    """A residual block of a discriminator; the first one (`first`) starts without a ReLU."""
    inside = after_relu(init)

    def halved(b: Builder, x: Var, out: str) -> Var:
        return b.avg_pool(x, size=2, out=out) if downsamples else x

    @module_class("FirstBlock" if first else "DownBlock" if downsamples else "FlatBlock", x="B channels H W")
    def block(b: Builder, x: Var, *, channels: int, features: int) -> Var:
        """Two convolutions with a shortcut; x [B, channels, H, W]."""
        h = x if first else b.relu(x, out="h")
        h = layers.conv(b, "conv1", h, features, 3, inside, spectral=spectral, out="h")
        h = halved(b, layers.conv(b, "conv2", b.relu(h), features, 3, inside, spectral=spectral, out="h"), "h")
        if first:
            x = halved(b, x, "x")
        if downsamples or int(channels) != int(features):
            x = layers.conv(b, "conv_sc", x, features, 1, init, spectral=spectral, out="x")
        if not first:
            x = halved(b, x, "x")
        return h + x

    return block
