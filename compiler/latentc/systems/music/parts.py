"""Layers that the networks over waveforms share.

Symbols: B batch, C channels, L length in samples.
"""

from __future__ import annotations

from latentc.components import layers
from latentc.ir.builder import Builder, Var, f32, module_class

EPS = 1e-5  # of norms with weights


def reduced(b: Builder, name: str, x: Var, features: int, factor: int) -> Var:
    """A convolution over windows of `factor` samples, which tile x [B, C, L]: [B, features, L / factor]."""
    fan_in = x.shape[1] * factor
    weight = b.param(f"{name}.weight", f32(features, x.shape[1], factor), "linear_default", fan_in=fan_in)
    bias = b.param(f"{name}.bias", f32(features), "linear_default", fan_in=fan_in)
    return b.conv(x, weight, bias, stride=factor, out="x")


def residual(b: Builder, x: Var, channels: int, groups: int) -> Var:
    """x [B, C, L] plus two convolutions of it, each after a group norm and SiLU."""
    h = b.silu(layers.group_norm(b, "norm1", x, groups, EPS, out="h"), out="h")
    h = layers.conv(b, "conv1", h, channels, 3, "linear_default", out="h")
    h = b.silu(layers.group_norm(b, "norm2", h, groups, EPS, out="h"), out="h")
    return b.add(x, layers.conv(b, "conv2", h, channels, 3, "linear_default", out="h"), out="x")


@module_class("ResidualBlock", x="B channels L")
def residual_block(b: Builder, x: Var, *, channels: int, groups: int) -> Var:
    """Two convolutions beside a shortcut."""
    return residual(b, x, channels, groups)
