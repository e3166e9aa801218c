"""RealNVP (Dinh et al. 2017, arXiv:1605.08803) as a prior of latents, with DenseNets inside its couplings.

A flow maps latents to standard normal noise and back. Symbols: B batch, C channels, H and W sides.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from pydantic import Field

from latentc.components import Closed, Size
from latentc.ir.builder import BlockBody, Builder, Var, f32, module_class
from latentc.systems.pixelcnn.pixel_streams import normed_weight
from latentc.systems.self_vae.densenets import conv, dense_layer

ALTERNATE = (0, 3, 1, 2)
"""The order of the four pixels of a square, row by row, in which a scale splits them: diagonals first."""


class Flow(Closed):
    """A RealNVP. Each scale but the last splits off half of the latents."""

    scales: int = Field(2, gt=0, le=2, description="number of scales, each at half the resolution of the previous")
    growth: Size = Field(64, description="channels that each block of a coupling appends")
    steps: int = Field(5, gt=0, le=64, description="number of blocks of a coupling")


def flow_body(flow: Flow, std: float, backwards: bool) -> BlockBody:
    """Latents [B, C, H, W] -> noise of the same shape and log-determinant f32[B]; `backwards` noise -> latents."""
    return _flow(flow.scales, std, backwards)


@cache
def _flow(scales: int, std: float, backwards: bool) -> BlockBody:
    @module_class("RealNvp", "backward" if backwards else "forward", x="B channels H W")
    def body(b: Builder, x: Var, *, channels: int, growth: int, steps: int) -> Any:
        """Maps latents to noise and the log-determinant, or noise to latents."""
        run = _Run(b, steps, growth, std, backwards)
        x = run.scale(x, 0, scales)
        return x if backwards else (x, run.log_det(x))

    return body


class _Run:
    """One pass through a flow."""

    def __init__(self, b: Builder, steps: Any, growth: Any, std: float, backwards: bool) -> None:
        self.b, self.steps, self.growth, self.std, self.backwards = b, steps, growth, std, backwards
        self.scalings: list[Var] = []

    def log_det(self, x: Var) -> Var:
        """f32[B]: the sum of the log scales of all couplings."""
        parts = [self.b.sum(s, axes=(1, 2, 3), keepdims=False, out="log_det") for s in self.scalings]
        total = parts[0]
        for part in parts[1:]:
            total = self.b.add(total, part, out="log_det")
        return total

    def scale(self, x: Var, index: int, scales: int) -> Var:
        """Scale `index` and those inside it."""
        b, name, last = self.b, f"scales.{index}", index == scales - 1
        # A single pixel has no checkerboard: its channels are coupled instead.
        inside = [(f"{name}.inside.{i}", int(x.shape[2]) > 1, i % 2 == 1) for i in range(4 if last else 3)]
        outside = [(f"{name}.outside.{i}", False, i % 2 == 1) for i in range(3)]
        if not self.backwards:
            x = self.couplings(x, inside)
        if not last:
            if not self.backwards:
                x = unsqueezed(b, self.couplings(squeezed(b, x), outside))
            x = squeezed(b, x, alternate=True)
            half = x.shape[1] // 2
            kept, away = b.split(x, axis=1, sizes=(half, half), out="kept away")
            x = b.concat(self.scale(kept, index + 1, scales), away, axis=1, out="x")
            x = unsqueezed(b, x, alternate=True)
            if self.backwards:
                x = unsqueezed(b, self.couplings(squeezed(b, x), outside))
        return self.couplings(x, inside) if self.backwards else x

    def couplings(self, x: Var, each: list[tuple[str, bool, bool]]) -> Var:
        """Couplings, given as name, whether the halves are a checkerboard, and whether they are exchanged."""
        for name, checkered, exchanged in reversed(each) if self.backwards else each:
            body = coupling(self.std, checkered, exchanged, self.backwards)
            names = "x" if self.backwards else "x log_scale"
            made = self.b.sub(name, body, x, channels=x.shape[1], growth=self.growth, steps=self.steps, out=names)
            if self.backwards:
                x = made
            else:
                x, scaling = made
                self.scalings.append(scaling)
        return x


@cache
def coupling(std: float, checkered: bool, exchanged: bool, backwards: bool) -> BlockBody:
    """One half of x, shifted and scaled by what a DenseNet makes of the other; forward also returns the log scales."""

    def moved(b: Builder, x: Var, log_scale: Var, shift: Var) -> Var:
        if backwards:
            return b.op("sub", x * b.exp(-log_scale), shift, out="x")
        return b.mul(x + shift, b.exp(log_scale), out="x")

    def from_half(b: Builder, half: Var, channels: Any, growth: Any, steps: Any) -> tuple[Var, Var]:
        h = b.sub("layer", dense_layer(std), half, channels=channels, growth=growth, steps=steps, out="h")
        h = conv(b, "leave", h, channels + steps * growth, 2 * channels, std, 3)
        log_scale, shift = b.split(h, axis=1, sizes=(channels, channels), out="log_scale shift")
        weight = b.param("rescale.weight", f32(channels, 1, 1), "ones")
        weight = b.reshape(normed_weight(b, "rescale", weight, 0, 0.0), shape=(1, channels, 1, 1), out="weight")
        return b.mul(b.tanh(log_scale), weight, out="log_scale"), shift

    method = "backward" if backwards else "forward"
    if checkered:

        @module_class("CheckerboardCoupling", method, x="B channels H W")
        def on_checkerboard(b: Builder, x: Var, *, channels: int, growth: int, steps: int) -> Any:
            """Shifts and scales every other pixel."""
            rows, columns = (np.arange(int(side)) for side in x.shape[2:])
            board = (rows[:, None] + columns + exchanged) % 2
            seen = b.constant(board[None, None], "f32", out="seen")
            free = b.constant(1 - board[None, None], "f32", out="free")
            log_scale, shift = from_half(b, x * seen, channels, growth, steps)
            log_scale = b.mul(log_scale, free, out="log_scale")
            x = moved(b, x, log_scale, shift * free)
            return x if backwards else (x, log_scale)

        return on_checkerboard

    @module_class("ChannelCoupling", method, x="B channels H W")
    def on_channels(b: Builder, x: Var, *, channels: int, growth: int, steps: int) -> Any:
        """Shifts and scales half of the channels."""
        half = channels // 2
        first, second = b.split(x, axis=1, sizes=(half, half), out="first second")
        seen, changed = (first, second) if exchanged else (second, first)
        log_scale, shift = from_half(b, seen, half, growth, steps)
        changed = moved(b, changed, log_scale, shift)
        x = b.concat(*((seen, changed) if exchanged else (changed, seen)), axis=1, out="x")
        return x if backwards else (x, log_scale)

    return on_channels


def squeezed(b: Builder, x: Var, alternate: bool = False) -> Var:
    """[B, C, H, W] -> [B, 4 C, H / 2, W / 2]: the four pixels of a square next to each other, or far apart."""
    batch, channels, height, width = x.shape
    x = b.reshape(x, shape=(batch, channels, height // 2, 2, width // 2, 2))
    x = b.transpose(x, perm=(0, 3, 5, 1, 2, 4) if alternate else (0, 1, 3, 5, 2, 4))
    if alternate:
        x = b.reshape(x, shape=(batch, 4, channels, height // 2, width // 2))
        x = b.take(x, b.constant(np.array(ALTERNATE)), axis=1)
    return b.reshape(x, shape=(batch, 4 * channels, height // 2, width // 2), out="x")


def unsqueezed(b: Builder, x: Var, alternate: bool = False) -> Var:
    """The inverse of `squeezed`."""
    batch, channels, height, width = x.shape
    channels = channels // 4
    if alternate:
        x = b.reshape(x, shape=(batch, 4, channels, height, width))
        x = b.take(x, b.constant(np.argsort(ALTERNATE)), axis=1)
        x = b.reshape(x, shape=(batch, 2, 2, channels, height, width))
        x = b.transpose(x, perm=(0, 3, 4, 1, 5, 2))
    else:
        x = b.reshape(x, shape=(batch, channels, 2, 2, height, width))
        x = b.transpose(x, perm=(0, 1, 4, 2, 5, 3))
    return b.reshape(x, shape=(batch, channels, 2 * height, 2 * width), out="x")
