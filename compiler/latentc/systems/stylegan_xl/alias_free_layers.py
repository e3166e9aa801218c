"""Layers of StyleGAN3's generator without aliasing (Karras et al. 2021, arXiv:2106.12423).

Symbols: B batch, C channels, H and W sides, W also dimension of styles.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np

from latentc.ir.builder import BlockBody, Builder, Var, f32, module_class
from latentc.systems.stylegan2.style_blocks import EPS, SLOPE, column, fan_gain, style_affine
from latentc.systems.stylegan_xl.filters import TAPS, Band, LayerPlan, low_pass, radial_low_pass

CLAMP = 256.0
"""Largest magnitude of a layer's output."""
OVERSAMPLED = 2
"""Factor of the rate at which the activation is computed."""


@cache
def fourier_input(band: Band) -> BlockBody:
    """Features of the band's rate and side whose position and rotation follow from the style."""

    @module_class("FourierInput", style="B style_dim")
    def forward(b: Builder, style: Var, *, style_dim: int, channels: int) -> Var:
        """Sines of fixed frequencies, moved and rotated by the style, and mixed: [B, channels, H, W]."""
        batch, side = style.shape[0], band.side
        weight = b.param("affine.weight", f32(4, style_dim), "zeros")
        bias = b.param("affine.bias", f32(1, 4), "eye")  # no rotation, no shift
        move = b.add(b.linear(style, weight * fan_gain(b, style, style_dim)), bias, out="move")
        cosine, sine, *shift = b.unbind(move, axis=1, out="cosine sine shift_x shift_y")
        length = b.sqrt(cosine * cosine + sine * sine, out="length")
        cosine, sine, right, down = (
            b.reshape(part / length, shape=(batch, 1), out=name)
            for part, name in zip((cosine, sine, *shift), ("cosine", "sine", "shift_x", "shift_y"), strict=True)
        )
        frequencies = b.param("frequencies", f32(channels, 2), "disc", "state", radius=band.cutoff)
        fx, fy = (b.reshape(part, shape=(1, channels)) for part in b.unbind(frequencies, axis=1, out="along_x along_y"))
        # The image is rotated, then moved: R T (x, y, 1), of which the frequencies see the inverse.
        phases = b.param("phases", f32(channels), "uniform", "state", bound=0.5)
        shifted_x = b.op("sub", sine * down, cosine * right, out="moved_x")
        shifted_y = b.neg(sine * right + cosine * down, out="moved_y")
        phases = b.add(b.reshape(phases, shape=(1, channels)), fx * shifted_x + fy * shifted_y, out="phases_moved")
        turned_x = b.add(fx * cosine, fy * sine, out="turned_x")
        turned_y = b.op("sub", fy * cosine, fx * sine, out="turned_y")
        places = ((2 * np.arange(side) + 1) / side - 1) * 0.5 * side / band.rate
        columns = b.constant(places.reshape(1, 1, 1, side), out="columns")
        rows = b.constant(places.reshape(1, 1, side, 1), out="rows")
        each = (batch, channels, 1, 1)
        angle = b.reshape(turned_x, shape=each) * columns + b.reshape(turned_y, shape=each) * rows
        angle = b.add(angle, b.reshape(phases, shape=each), out="angle")
        waves = b.reshape(b.sin(angle * (2 * math.pi)), shape=(batch, channels, side * side), out="waves")
        mixing = b.param("weight", f32(channels, channels), "normal")
        mixed = b.matmul(mixing * fan_gain(b, mixing, channels), waves, out="mixed")
        return b.reshape(mixed, shape=(batch, channels, side, side), out="x")

    return forward


@cache
def alias_free_layer(plan: LayerPlan, kernel: int, radial: bool) -> BlockBody:
    """From the band before to the band after; the last one makes the image."""
    name = "ImageLayer" if plan.last else "AliasFreeLayer"
    kernel = 1 if plan.last else kernel

    @module_class(name, x="B channels H W", style="B style_dim")
    def forward(b: Builder, x: Var, style: Var, *, channels: int, features: int, style_dim: int) -> Var:
        """A modulated convolution, then bias and activation at twice the rate, between low-pass filters."""
        scale = b.sub("affine", style_affine, style, out="scale", style_dim=style_dim, channels=channels)
        weight = b.param("weight", f32(features, channels, kernel, kernel), "normal")
        bias = column(b, b.param("bias", f32(features), "zeros"))
        if plan.last:
            scale = b.mul(scale, fan_gain(b, x, channels), out="scale")
            h = b.add(b.conv(x * column(b, scale), weight, out="h"), bias, out="h")
            return b.clamp(h, low=-CLAMP, high=CLAMP, out="h")
        # The scale of the style cancels with its norm, so that only the weight is normalised first.
        weight = b.mul(weight, b.rsqrt(b.mean(weight * weight, axes=(1, 2, 3), keepdims=True)), out="w")
        power = b.sum(weight * weight, axes=(2, 3), keepdims=False, out="power")
        demodulation = b.rsqrt(b.linear(scale * scale, power) + EPS, out="demodulation")
        h = b.conv(x * column(b, scale), weight, padding=kernel - 1, out="h")
        h = b.add(h * column(b, demodulation), bias, out="h")
        return _filtered(b, h, plan, kernel, radial)

    return forward


def _filtered(b: Builder, h: Var, plan: LayerPlan, kernel: int, radial: bool) -> Var:
    """The activation of h at a higher rate: [B, C, H, H] of the side and rate of the band after."""
    before, after = plan.before, plan.after
    rate = max(before.rate, after.rate) * OVERSAMPLED
    up, down = rate // before.rate, rate // after.rate
    # Samples that the second filter reads, and the first of them: the grids are centred on one another.
    length = (after.side - 1) * down + TAPS * down
    padding = length + TAPS * up - 1 - (before.side + kernel - 1) * up
    first = TAPS * up - 1 - (padding + up) // 2
    taps = b.constant(up * low_pass(TAPS * up, before.cutoff, 2 * before.half_width, rate), out="raising")
    for axis in (2, 3):
        stride = (up, 1) if axis == 2 else (1, up)
        h = b.conv_transpose(h, _along(b, h, taps, axis), stride=stride, groups=h.shape[1], out="h")
        h = b.slice(h, axis=axis, start=first, stop=first + length, out="h")
    h = b.mul(b.leaky_relu(h, slope=SLOPE, out="h"), math.sqrt(2), out="h")
    h = b.clamp(h, low=-CLAMP, high=CLAMP, out="h")
    design = (TAPS * down, after.cutoff, 2 * after.half_width, rate)
    if radial and not plan.critical:
        disc = b.constant(radial_low_pass(*design)[None, None], out="lowering")
        disc = b.broadcast_to(disc, shape=(h.shape[1], 1, TAPS * down, TAPS * down), out="lowering")
        return b.conv(h, disc, stride=down, groups=h.shape[1], out="h")
    taps = b.constant(low_pass(*design), out="lowering")
    for axis in (2, 3):
        stride = (down, 1) if axis == 2 else (1, down)
        h = b.conv(h, _along(b, h, taps, axis), stride=stride, groups=h.shape[1], out="h")
    return h


def _along(b: Builder, h: Var, taps: Var, axis: int) -> Var:
    """The filter of each channel of h along an axis: f32[C, 1, K, 1] or f32[C, 1, 1, K]."""
    shape = (taps.shape[0], 1) if axis == 2 else (1, taps.shape[0])
    return b.broadcast_to(b.reshape(taps, shape=(1, 1, *shape)), shape=(h.shape[1], 1, *shape), out="taps")
