"""Flows through stages of rising resolution: PixelFlow's times and the noise between its stages.

A stage runs from ``start * up(down(x)) + (1 - start) * noise`` to ``end * x + (1 - end) * noise``, x at its resolution.
Its local time goes from 0 to 1; networks take a time that counts through all stages.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from latentc.components.contract import Network
from latentc.ir.builder import Builder, Var

JITTER = 1e-6
"""Added to the variances of the noise between stages, whose covariance is singular at correlation -1/3."""


@dataclass(frozen=True)
class Cascade:
    """`count` stages; `steps` whole times; `correlation` of the noise of two pixels of a 2 x 2 block (gamma)."""

    count: int
    steps: int
    correlation: float

    @cached_property
    def _first(self) -> list[float]:
        """Data fraction at the beginning of each stage before the resolution changes, then 1."""
        times = np.arange(self.steps, dtype=np.float32) / np.float32(self.steps)
        first = [int(self.steps * (k / self.count)) for k in range(self.count + 1)]
        return [float(times[i]) if i < self.steps else 1.0 for i in first]

    def start(self, stage: int) -> float:
        """Data fraction at the beginning of a stage."""
        first = self._first[stage]
        return first * self._rectified(first) if stage else first

    def end(self, stage: int) -> float:
        """Data fraction at the end of a stage."""
        return self._first[stage + 1]

    def _rectified(self, first: float) -> float:
        return 1.0 / (math.sqrt(1.0 - 1.0 / self.correlation) * (1.0 - first) + first)

    def network_time(self, stage: int) -> tuple[float, float]:
        """(shift, scale) of the time that networks take: shift + scale * local time."""
        lengths = [self.end(k) - self.start(k) for k in range(self.count)]
        total, before = sum(lengths), sum(lengths[:stage])
        last = stage == self.count - 1
        after = total if last else before + lengths[stage]
        begin = int(self.steps * (before / total)) if stage else 0
        stop = self.steps - 1 if last else min(int(self.steps * (after / total)), self.steps - 1)
        # The last stage reaches its end at the last whole time, the others one later.
        whole = self.steps - 1 if last else self.steps
        return float(begin), (stop - begin) / whole * self.steps

    def jump(self, stage: int) -> tuple[float, float]:
        """Factors of the enlarged state and of the correlated noise at the beginning of a stage."""
        first = self._first[stage]
        alpha = self._rectified(first)
        return alpha, alpha * (1.0 - first) / math.sqrt(-self.correlation)

    def side(self, network: Network, stage: int) -> int:
        """Patches along a side of the network's input in a stage."""
        return int(network.methods["forward"].input("state").type.shape[2]) // network.sizes["patch"] >> (  # type: ignore[arg-type, operator]
            self.count - 1 - stage
        )

    @cached_property
    def mixing(self) -> NDArray[np.float64]:
        """f64[4, 4], lower triangular: times four normals it is the noise of a 2 x 2 block.

        The Cholesky factor in fp32, column by column, as the authors' is computed: at a correlation of -1/3 rounding
        changes the last entry, which is nearly 0, by 5 %.
        """
        same, other = np.float32(1.0 - self.correlation), np.float32(self.correlation)
        covariance = np.eye(4, dtype=np.float32) * same + other + np.eye(4, dtype=np.float32) * np.float32(JITTER)
        factor = np.zeros((4, 4), np.float32)
        for j in range(4):
            column = covariance[j:, j]
            for k in range(j):
                column = column - factor[j:, k] * factor[j, k]
            factor[j:, j] = column / np.sqrt(column[0])
        return np.asarray(factor, np.float64)

    def enlarged(self, b: Builder, x: Var, blocks: Var, stage: int) -> Var:
        """The first state of a stage from the last x f32[B, C, H, W] of the one before: f32[B, C, 2 H, 2 W].

        `blocks` f32[B, C, H, W, 4] are normals, four for each pixel of x.
        """
        batch, channels, height, width = x.shape
        alpha, beta = self.jump(stage)
        mixing = b.constant(self.mixing.T, out="mixing")
        noise = b.reshape(b.matmul(blocks, mixing), shape=(batch, channels, height, width, 2, 2))
        noise = b.transpose(noise, perm=(0, 1, 2, 4, 3, 5))
        noise = b.reshape(noise, shape=(batch, channels, 2 * height, 2 * width), out="block_noise")
        return b.add(b.upsample_nearest(x, factor=2) * alpha, noise * beta, out="x")
