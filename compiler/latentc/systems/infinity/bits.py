"""Latents as a sum of maps of bits at growing resolutions: multi-scale residual binary spherical quantisation.

Symbols: B batch, K scales, n the side of a scale's map, d bits of a position, which are the channels of the latents, h
the side of the latents.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from latentc.ir.builder import Builder, Var


@dataclass(frozen=True)
class BitScales:
    """`sides` n of the maps, from small to large, the last h, of d = `bits` bits per position.

    A bit stands for -1 / sqrt(d) or 1 / sqrt(d), so that all codes lie on the unit sphere.
    """

    sides: tuple[int, ...]
    bits: int

    @property
    def lengths(self) -> tuple[int, ...]:
        """Positions of each scale."""
        return tuple(side**2 for side in self.sides)

    @property
    def size(self) -> float:
        """The absolute value of each number of a code."""
        return 1 / math.sqrt(self.bits)

    def shrunk(self, b: Builder, rest: Var, k: int) -> Var:
        """The residual f32[B, d, h, h] at the resolution of scale k: means over areas."""
        return rest if k == len(self.sides) - 1 else b.resize(rest, size=self.sides[k], mode="area", out="rest")

    def signs(self, b: Builder, x: Var) -> Var:
        """The nearest codes of x f32[B, d, n, n]."""
        positive = b.cast(b.greater(x, 0.0), to="f32")
        return b.op("sub", positive * (2 * self.size), self.size, out="codes")

    def enlarged(self, b: Builder, codes: Var, k: int) -> Var:
        """What codes f32[B, d, n, n] of scale k add to the latents f32[B, d, h, h]."""
        return codes if k == len(self.sides) - 1 else b.resize(codes, size=self.sides[-1], mode="bilinear", out="added")

    def next_input(self, b: Builder, latents: Var, k: int) -> Var:
        """f32[B, n n, d]: the latents so far at the resolution of scale k, row by row."""
        if k < len(self.sides) - 1:
            latents = b.resize(latents, size=self.sides[k], mode="bilinear", out="x")
        return self.rows(b, latents, k, f"input_{k}")

    def rows(self, b: Builder, x: Var, k: int, out: str) -> Var:
        """f32[B, n n, d]: a map f32[B, d, n, n] of scale k, row by row."""
        x = b.reshape(x, shape=(x.shape[0], self.bits, self.lengths[k]))
        return b.transpose(x, perm=(0, 2, 1), out=out)

    def map(self, b: Builder, x: Var, k: int, out: str) -> Var:
        """f32[B, d, n, n]: rows f32[B, n n, d] of scale k as a map."""
        x = b.transpose(x, perm=(0, 2, 1))
        return b.reshape(x, shape=(x.shape[0], self.bits, self.sides[k], self.sides[k]), out=out)
