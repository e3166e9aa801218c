"""Layers of style-based generators (StyleGAN2, Karras et al. 2020, arXiv:1912.04958).

Weights have an equalised learning rate: they start with standard deviation 1 (over `rate`) and are multiplied by
rate / sqrt(fan_in) at run time. Symbols: B batch, C channels, W dimension of styles.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np

from latentc.components.blocks.unet.layers import binomial, resampled
from latentc.ir.builder import BlockBody, Builder, Var, f32, module_class

SLOPE = 0.2  # negative slope of leaky ReLUs, whose outputs are multiplied by sqrt(2)
EPS = 1e-8


def activated(b: Builder, x: Var, out: str = "h") -> Var:
    """A leaky ReLU that keeps the variance."""
    return b.mul(b.leaky_relu(x, slope=SLOPE, out=out), math.sqrt(2), out=out)


def normalized(b: Builder, x: Var, out: str) -> Var:
    """x [B, W] divided by its root mean square."""
    return b.mul(x, b.rsqrt(b.mean(x * x, axes=(1,), keepdims=True) + EPS), out=out)


def fan_gain(b: Builder, like: Var, fan_in: Any, rate: float = 1.0) -> Var:
    """rate / sqrt(fan_in): what a weight is multiplied by at run time."""
    if rate == 1.0:
        return b.rsqrt(b.scalar(fan_in, like), out="gain")
    return b.mul(b.rsqrt(b.scalar(fan_in, like)), rate, out="gain")


def spread(b: Builder, w: Var, layers: int) -> Var:
    """A style [B, W] for each of L layers: [B, L, W]."""
    row = b.reshape(w, shape=(w.shape[0], 1, w.shape[1]))
    return b.broadcast_to(row, w, shape=(w.shape[0], layers, w.shape[1]), out="ws")


def mixed_styles(b: Builder, own: Var, other: Var, mix: Var, share: float) -> Var:
    """Styles [B, L, W]: `own`, and in a share of the samples from a random layer on those of `other`.

    mix f32[B, 2], uniform in [0, 1): whether a sample is mixed, and from which layer on.
    """
    batch, layers = mix.shape[0], int(own.shape[1])
    which, place = b.unbind(mix, axis=1, out="which place")
    # The last layer with the first style is floor(place (L - 1)), of 0 to L - 2.
    cutoff = b.mul(b.reshape(place, shape=(batch, 1, 1)), float(layers - 1), out="cutoff")
    after = b.less(cutoff, b.constant(np.arange(float(layers))[:, None], out="layer"), out="after")
    chosen = b.where(after, other, own, out="chosen")
    mixes = b.less(b.reshape(which, shape=(batch, 1, 1)), share, out="mixes")
    return b.where(mixes, chosen, own, out="ws")


@module_class("FullyConnectedLayer", x="B in_features")
def fully_connected(b: Builder, x: Var, *, in_features: int, out_features: int) -> Var:
    """A linear layer with equalised learning rate."""
    weight = b.param("weight", f32(out_features, in_features), "normal")
    bias = b.param("bias", f32(out_features), "zeros")
    return b.linear(x, b.mul(weight, fan_gain(b, x, in_features), out="w"), bias, out="h")


@module_class("StyleAffine", style="B style_dim")
def style_affine(b: Builder, style: Var, *, style_dim: int, channels: int) -> Var:
    """The scale of each channel, from a style: a linear layer with equalised learning rate that starts around 1."""
    weight = b.param("weight", f32(channels, style_dim), "normal")
    bias = b.param("bias", f32(channels), "ones")
    return b.linear(style, b.mul(weight, fan_gain(b, style, style_dim), out="w"), bias, out="scale")


@cache
def mapping_layer(rate: float) -> BlockBody:
    @module_class("MappingLayer", x="B in_features")
    def forward(b: Builder, x: Var, *, in_features: int, out_features: int) -> Var:
        """A linear layer whose learning rate is equalised and lower, and its activation."""
        weight = b.param("weight", f32(out_features, in_features), "normal", std=1.0 / rate)
        bias = b.param("bias", f32(out_features), "zeros")
        gain = fan_gain(b, x, in_features, rate)
        return activated(b, b.linear(x, b.mul(weight, gain, out="w"), bias * rate, out="h"))

    return forward


@module_class("ClassEmbedding", y="B")
def class_embedding(b: Builder, y: Var, *, classes: int, features: int) -> Var:
    """An embedding of the class with equalised learning rate, divided by its root mean square."""
    table = b.param("weight", f32(classes, features), "normal")
    bias = b.param("bias", f32(features), "zeros")
    return normalized(b, b.add(b.embedding(table, y) * fan_gain(b, bias, classes), bias, out="h"), "embedded")


@cache
def equalised_conv(active: bool) -> BlockBody:
    @module_class("EqualisedConv" if active else "EqualisedProjection", x="B channels H W")
    def forward(b: Builder, x: Var, *, channels: int, features: int, kernel: int, stride: int, padding: int) -> Var:
        """A convolution with equalised learning rate."""
        shape = (features, channels, kernel, kernel)
        gain = fan_gain(b, x, channels * kernel**2)
        weight = b.mul(b.param("weight", f32(*shape), "normal"), gain, out="w")
        biases = [b.param("bias", f32(features), "zeros")] if active else []
        h = b.conv(x, weight, *biases, stride=stride, padding=padding, out="h")
        return activated(b, h) if active else h

    return forward


def conv(b: Builder, name: str, x: Var, features: Any, kernel: int, stride: int = 1, active: bool = True) -> Var:
    """A convolution of x [B, C, H, W] with equalised learning rate and its activation; padded if `stride` is 1."""
    sizes = {"channels": x.shape[1], "features": features, "kernel": kernel}
    padding = kernel // 2 if stride == 1 else 0
    return b.sub(name, equalised_conv(active), x, out="h", **sizes, stride=stride, padding=padding)


def column(b: Builder, x: Var) -> Var:
    """x [B, C] or [C] as it is multiplied with a feature map."""
    return b.reshape(x, shape=(*x.shape, 1, 1) if x.type.rank == 2 else (1, *x.shape, 1, 1))


@cache
def synthesis_layer(upsample: bool) -> BlockBody:
    @module_class("UpsamplingSynthesisLayer" if upsample else "SynthesisLayer", x="B channels H W", style="B style_dim")
    def forward(b: Builder, x: Var, style: Var, noise: Var, *, channels: int, features: int, style_dim: int) -> Var:
        """A modulated and demodulated 3 x 3 convolution, then noise, bias and activation.

        x is scaled before and the result is divided after by the norm of the modulated weight, which is the same as
        modulating the weight for each sample.
        """
        scale = b.sub("affine", style_affine, style, out="scale", style_dim=style_dim, channels=channels)
        weight = b.param("weight", f32(features, channels, 3, 3), "normal")
        power = b.sum(weight * weight, axes=(2, 3), keepdims=False, out="power")
        demodulation = b.rsqrt(b.linear(scale * scale, power) + EPS, out="demodulation")
        h = b.mul(x, column(b, scale), out="h")
        if upsample:
            h = b.conv_transpose(h, b.transpose(weight, perm=(1, 0, 2, 3), out="w"), stride=2, out="h")
            h = b.conv(h, binomial(b, h, 4.0), padding=1, groups=features, out="h")
        else:
            h = b.conv(h, weight, padding=1, out="h")
        h = b.add(h * column(b, demodulation), noise * b.param("noise_strength", f32(), "zeros"), out="h")
        return activated(b, b.add(h, column(b, b.param("bias", f32(features), "zeros")), out="h"))

    return forward


@module_class("ToRGBLayer", x="B channels H W", style="B style_dim")
def to_rgb(b: Builder, x: Var, style: Var, *, channels: int, image_channels: int, style_dim: int) -> Var:
    """A modulated 1 x 1 convolution without demodulation."""
    scale = b.sub("affine", style_affine, style, out="scale", style_dim=style_dim, channels=channels)
    scale = b.mul(scale, fan_gain(b, x, channels), out="scale")
    weight = b.param("weight", f32(image_channels, channels, 1, 1), "normal")
    bias = b.param("bias", f32(image_channels), "zeros")
    return b.conv(x * column(b, scale), weight, bias, out="rgb")


def _layer(b: Builder, name: str, x: Var, style: Var, noise: Var, features: Any, upsample: bool = False) -> Var:
    sizes = {"channels": x.shape[1], "features": features, "style_dim": style.shape[1]}
    return b.sub(name, synthesis_layer(upsample), x, style, noise, out="h", **sizes)


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
    """Features [B, C, H, W] from the constant, and the image of this resolution."""
    h = _layer(b, "conv1", x, style, noise, features)
    sizes = {"channels": features, "image_channels": image_channels, "style_dim": style_dim}
    return h, b.sub("torgb", to_rgb, h, rgb_style, out="rgb", **sizes)


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
    """Doubles the resolution of features and image, and adds the features' image to it."""
    h = _layer(b, "conv0", x, style, noise, features, upsample=True)
    h = _layer(b, "conv1", h, next_style, next_noise, features)
    sizes = {"channels": features, "image_channels": image_channels, "style_dim": style_dim}
    rgb = b.sub("torgb", to_rgb, h, rgb_style, out="rgb", **sizes)
    return h, b.add(resampled(b, image, "up", "binomial", out="image"), rgb, out="image")
