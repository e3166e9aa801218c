"""Layers of style-based generators (StyleGAN2, Karras et al. 2020, arXiv:1912.04958).

Weights have an equalised learning rate: they start with standard deviation 1 (over `rate`) and are multiplied by
rate / sqrt(fan_in) at run time. Symbols: B batch, C channels, W dimension of styles.
"""

from __future__ import annotations

import math
from typing import Any

from latentc.components.blocks.unet.layers import binomial, resampled
from latentc.ir.builder import Builder, Var, f32, module_class
from latentc.ir.types import product

SLOPE = 0.2  # negative slope of leaky ReLUs, whose outputs are multiplied by sqrt(2)
EPS = 1e-8


def activated(b: Builder, x: Var, out: str = "h") -> Var:
    """A leaky ReLU that keeps the variance."""
    return b.mul(b.leaky_relu(x, slope=SLOPE), math.sqrt(2), out=out)


def normalized(b: Builder, x: Var, out: str) -> Var:
    """x [B, W] divided by its root mean square."""
    return b.mul(x, b.rsqrt(b.mean(x * x, axes=(1,), keepdims=True) + EPS), out=out)


def fan_gain(b: Builder, like: Var, shape: tuple[Any, ...], rate: float = 1.0) -> Var:
    """rate / sqrt(fan_in) for a weight of `shape`."""
    fan_in: Any = product(shape[1:])
    gain = b.rsqrt(b.scalar(fan_in, like), out="gain")
    return gain if rate == 1.0 else gain * rate


def linear(b: Builder, name: str, x: Var, features: Any, rate: float = 1.0, bias: str = "zeros", out: str = "h") -> Var:
    """x [B, in] -> [B, features], with equalised learning rate."""
    shape = (features, x.shape[1])
    weight = b.param(f"{name}.weight", f32(*shape), "normal", std=1.0 / rate)
    offset = b.param(f"{name}.bias", f32(features), bias)
    return b.linear(
        x, b.mul(weight, fan_gain(b, x, shape, rate), out="w"), offset if rate == 1.0 else offset * rate, out=out
    )


def equalised_conv(
    b: Builder,
    name: str,
    x: Var,
    features: Any,
    kernel: int,
    stride: int = 1,
    padding: int | None = None,
    bias: bool = True,
    out: str = "h",
) -> Var:
    """A convolution of x [B, C, H, W] with equalised learning rate; `padding` None keeps the size."""
    shape = (features, x.shape[1], kernel, kernel)
    weight = b.mul(b.param(f"{name}.weight", f32(*shape), "normal"), fan_gain(b, x, shape), out="w")
    biases = [b.param(f"{name}.bias", f32(features), "zeros")] if bias else []
    padding = kernel // 2 if padding is None else padding
    return b.conv(x, weight, *biases, stride=stride, padding=padding, out=out)  # type: ignore[no-any-return]


def mapped_class(b: Builder, y: Var, classes: Any, features: Any) -> Var:
    """The embedding f32[B, features] of classes y i64[B], of unit mean square, with equalised learning rate."""
    table = b.param("embed.weight", f32(classes, features), "normal")
    bias = b.param("embed.bias", f32(features), "zeros")
    gain = fan_gain(b, bias, (features, classes))
    return normalized(b, b.embedding(table, y) * gain + bias, "embedded")


def column(b: Builder, x: Var) -> Var:
    """x [B, C] or [C] as it is multiplied with a feature map."""
    return b.reshape(x, shape=(*x.shape, 1, 1) if x.type.rank == 2 else (1, *x.shape, 1, 1))


def styled_conv(b: Builder, name: str, x: Var, style: Var, features: Any, noise: Var, upsample: bool) -> Var:
    """A modulated and demodulated 3 x 3 convolution, then noise, bias and activation; doubles the sides if asked.

    x [B, C, H, W] is scaled by channel before, and divided after by the norm of the modulated weight: the same as
    modulating the weight for each sample.
    """
    scale = linear(b, f"{name}.affine", style, x.shape[1], bias="ones", out="scale")
    weight = b.param(f"{name}.weight", f32(features, x.shape[1], 3, 3), "normal")
    power = b.sum(weight * weight, axes=(2, 3), keepdims=False, out="power")
    demodulation = b.rsqrt(b.linear(scale * scale, power) + EPS, out="demodulation")
    h = b.mul(x, column(b, scale), out="h")
    if upsample:
        h = b.conv_transpose(h, b.transpose(weight, perm=(1, 0, 2, 3), out="w"), stride=2, out="h")
        h = b.conv(h, binomial(b, h, 4.0), padding=1, groups=features, out="h")
    else:
        h = b.conv(h, weight, padding=1, out="h")
    strength = b.param(f"{name}.noise_strength", f32(), "zeros")
    h = b.add(h * column(b, demodulation), noise * strength, out="h")
    return activated(b, h + column(b, b.param(f"{name}.bias", f32(features), "zeros")))


def to_rgb(b: Builder, name: str, x: Var, style: Var, channels: Any) -> Var:
    """A modulated 1 x 1 convolution without demodulation: [B, channels, H, W]."""
    scale = linear(b, f"{name}.affine", style, x.shape[1], bias="ones", out="scale")
    weight = b.param(f"{name}.weight", f32(channels, x.shape[1], 1, 1), "normal")
    bias = b.param(f"{name}.bias", f32(channels), "zeros")
    gain = fan_gain(b, x, (channels, x.shape[1]))
    return b.conv(x * column(b, scale * gain), weight, bias, out="rgb")


def _synthesis_block(b: Builder, x: Var, styles: tuple[Var, ...], noises: tuple[Var, ...], features: Any) -> Var:
    """One or two styled convolutions; the first of two upsamples."""
    h = x
    names = ("conv0", "conv1")[-len(noises) :]
    for name, style, noise in zip(names, styles, noises, strict=True):
        h = styled_conv(b, name, h, style, features, noise, upsample=name == "conv0")
    return h


@module_class("FirstSynthesisBlock", x="B channels H W", style="B style_dim", rgb_style="B style_dim")
def first_block(
    b: Builder,
    x: Var,
    style: Var,
    rgb_style: Var,
    noise: Var,
    *,
    channels: int,
    features: int,
    image_channels: int,
    style_dim: int,
) -> tuple[Var, Var]:
    """Styles the constant: features [B, C, H, W] and the image of this resolution."""
    h = _synthesis_block(b, x, (style,), (noise,), features)
    return h, to_rgb(b, "torgb", h, rgb_style, image_channels)


@module_class(
    "SynthesisBlock",
    x="B channels H W",
    image="B image_channels H W",
    style="B style_dim",
    next_style="B style_dim",
    rgb_style="B style_dim",
)
def synthesis_block(
    b: Builder,
    x: Var,
    image: Var,
    style: Var,
    next_style: Var,
    rgb_style: Var,
    noise: Var,
    next_noise: Var,
    *,
    channels: int,
    features: int,
    image_channels: int,
    style_dim: int,
) -> tuple[Var, Var]:
    """Doubles the sides of features and image; adds to the image what the features show at this resolution."""
    h = _synthesis_block(b, x, (style, next_style), (noise, next_noise), features)
    rgb = to_rgb(b, "torgb", h, rgb_style, image_channels)
    return h, b.add(resampled(b, image, "up", "binomial", out="image"), rgb, out="image")


__all__ = [
    "activated",
    "column",
    "equalised_conv",
    "fan_gain",
    "first_block",
    "linear",
    "mapped_class",
    "normalized",
    "synthesis_block",
]
