"""Residual blocks without norms, whose branch is scaled down. Symbols: B batch, C channels."""

from __future__ import annotations

from typing import Any

from latentc.components import layers
from latentc.ir.builder import Builder, Var, module_class
from latentc.systems.selfcond_gan.parts import INIT

SLOPE = 0.2
SHARE = 0.1  # of the branch


def active(b: Builder, x: Var, out: str = "h") -> Var:
    return b.leaky_relu(x, slope=SLOPE, out=out)


@module_class("ResidualBlock", x="B channels H W")
def residual_block(b: Builder, x: Var, *, channels: int, features: int) -> Var:
    """x plus a tenth of two convolutions; x [B, channels, H, W]."""
    inside: Any = channels if int(channels) <= int(features) else features
    h = layers.conv(b, "conv1", active(b, x), inside, 3, INIT, out="h")
    h = layers.conv(b, "conv2", active(b, h), features, 3, INIT, out="h")
    if int(channels) != int(features):
        x = layers.conv(b, "shortcut", x, features, 1, INIT, bias=False, out="x")
    return b.add(x, h * SHARE, out="x")
