"""Layers that the networks of a flow autoencoder share: blocks with batch norms, an hourglass, a blurred reduction.

Symbols: B batch, C channels, H and W sides.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentc.components import layers
from latentc.ir.builder import Builder, Var, module_class

EPS = 1e-5
"""Added to the variances of batch norms."""


def conv(b: Builder, name: str, x: Var, features: Any, kernel: int = 3, out: str = "h") -> Var:
    """A convolution that keeps the sides, initialised as torch.nn does."""
    return layers.conv(b, name, x, features, kernel, "linear_default", out=out)


def normed(b: Builder, name: str, x: Var) -> Var:
    """A batch norm, then ReLU."""
    return b.relu(layers.batch_norm(b, name, x, True, EPS, out="h"), out="h")


@module_class("SameBlock", x="B channels H W")
def same_block(b: Builder, x: Var, *, channels: int, features: int) -> Var:
    """A 7 x 7 convolution, a batch norm and ReLU."""
    return normed(b, "norm", conv(b, "conv", x, features, 7))


@module_class("DownBlock", x="B channels H W")
def down_block(b: Builder, x: Var, *, channels: int, features: int) -> Var:
    """A convolution, a batch norm, ReLU, and means of 2 x 2 pixels."""
    return b.avg_pool(normed(b, "norm", conv(b, "conv", x, features)), size=2, out="h")


@module_class("UpBlock", x="B channels H W")
def up_block(b: Builder, x: Var, *, channels: int, features: int) -> Var:
    """Twice the sides, by repeated pixels, then a convolution, a batch norm and ReLU."""
    return normed(b, "norm", conv(b, "conv", b.upsample_nearest(x, factor=2, out="h"), features))


@module_class("ResidualBlock", x="B channels H W")
def residual_block(b: Builder, x: Var, *, channels: int) -> Var:
    """Two convolutions, each after a batch norm and ReLU, added to x."""
    h = conv(b, "conv1", normed(b, "norm1", x), channels)
    return b.add(x, conv(b, "conv2", normed(b, "norm2", h), channels), out="x")


def widths(width: int, most: int, count: int) -> list[int]:
    """Channels at full size and after each of `count` halvings: doubled, up to `most`."""
    return [min(most, width * 2**i) for i in range(count + 1)]


def encoder(b: Builder, name: str, x: Var, of: Sequence[int]) -> list[Var]:
    """x and the outputs of blocks NAME.0, NAME.1, …, with the channels of[1], of[2], …; each halves the sides."""
    levels = [x]
    for i, features in enumerate(of[1:]):
        x = b.sub(f"{name}.{i}", down_block, x, channels=x.shape[1], features=features, out="h")
        levels.append(x)
    return levels


def hourglass(b: Builder, x: Var, width: int, most: int, count: int) -> Var:
    """f32[B, width + C, H, W]: blocks down.0, …, then up.0, …, each joined with the level of its size."""
    of = widths(width, most, count)
    levels = encoder(b, "down", x, of)
    h = levels.pop()
    for i, features in enumerate(of[-2::-1]):
        h = b.sub(f"up.{i}", up_block, h, channels=h.shape[1], features=features, out="h")
        h = b.concat(h, levels.pop(), axis=1, out="h")
    return h


def blur(factor: int) -> tuple[float, int]:
    """The standard deviation of the Gaussian by which images are blurred before they are reduced, and its reach."""
    sigma = (factor - 1) / 2
    return sigma, round(4 * sigma)


def gaussian(factor: int) -> NDArray[np.float64]:
    """The Gaussian at whole pixels, 1 in the middle."""
    sigma, reach = blur(factor)
    along = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * sigma**2))
    return np.outer(along, along)


def reduced(b: Builder, x: Var, factor: int) -> Var:
    """Every `factor`-th pixel of x [B, C, H, W], blurred first."""
    if factor == 1:
        return x
    kernel, channels = gaussian(factor), int(x.shape[1])
    kernels = b.constant(np.tile(kernel / kernel.sum(), (channels, 1, 1, 1)), "f32", out="gaussian")
    return b.conv(x, kernels, stride=factor, padding=blur(factor)[1], groups=channels, out="reduced")
