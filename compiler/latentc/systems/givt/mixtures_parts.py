"""Gaussian mixtures whose parameters a network predicts: their log-density, and draws from one component.

Symbols: N rows (tokens), C channels, M components.
"""

from __future__ import annotations

import math
from typing import Any, Self

import numpy as np
from pydantic import Field, model_validator

from latentc.components import Closed
from latentc.components.kit.tokens import draw
from latentc.ir.builder import Builder, Var, as_tuple


class Mixture(Closed):
    """A mixture of Gaussians (GIVT, Tschannen et al. 2023, arXiv:2312.02116), of diagonal covariances, or one of a full
    covariance.
    """

    components: int = Field(16, gt=0, le=4_096, description="number of Gaussians (M)")
    per_channel: bool = Field(False, description="separate mixture per channel")
    halved: bool = Field(
        True, description="standard deviations are (x + sqrt(x^2 + 4)) / 2; false: x + sqrt(x^2 + 4) / 2"
    )
    least: float = Field(1e-6, gt=0, le=1, description="minimum standard deviation")
    correlated: bool = Field(
        False,
        description="a single Gaussian with covariance L L^T, where L is the lower triangle of a predicted matrix",
    )

    @model_validator(mode="after")
    def _correlated_alone(self) -> Self:
        if self.correlated and (self.components > 1 or self.per_channel):
            raise ValueError("a `correlated` mixture has one Gaussian over all channels: set `components: 1`")
        return self

    def size(self, channels: int) -> int:
        """Numbers that describe the mixture of a token."""
        if self.correlated:
            return channels**2 + channels
        return self.components * (3 * channels if self.per_channel else 1 + 2 * channels)

    def parameters(
        self, b: Builder, raw: Var, channels: int, scale: float = 1.0, sharpness: float = 1.0
    ) -> tuple[Var, Var, Var]:
        """Logits f32[N, C or 1, M] times `sharpness`, means and deviations f32[N, C, M], these times `scale`, of raw
        numbers.
        """
        rows, m = raw.shape[0], self.components
        if self.per_channel:
            parts = b.reshape(raw, shape=(rows, 3 * channels, m))
            logits, mean, deviation = b.split(parts, axis=1, sizes=(channels,) * 3, out="logits mean deviation")
        else:
            logits, rest = b.split(raw, axis=1, sizes=(m, 2 * m * channels), out="logits rest")
            logits = b.reshape(logits, shape=(rows, 1, m), out="logits")
            rest = b.transpose(b.reshape(rest, shape=(rows, m, 2, channels)), perm=(0, 2, 3, 1))
            mean, deviation = b.split(rest, axis=1, sizes=(1, 1), out="mean deviation")
            mean, deviation = (b.reshape(v, shape=(rows, channels, m), out=v.value.name) for v in (mean, deviation))
        deviation = b.maximum(self._positive(b, deviation), self.least, out="deviation")
        logits = logits if sharpness == 1.0 else b.mul(logits, sharpness, out="logits")
        return logits, mean, deviation if scale == 1.0 else b.mul(deviation, scale, out="deviation")

    def _positive(self, b: Builder, x: Var) -> Var:
        root, name = b.sqrt(b.add(b.mul(x, x), 4.0), out="root"), x.value.name
        if self.halved:
            return b.mul(b.add(x, root), 0.5, out=name)
        return b.add(x, b.mul(root, 0.5), out=name)

    def correlation(self, b: Builder, raw: Var, channels: int, scale: float = 1.0) -> tuple[Var, Var]:
        """Mean f32[N, C] and lower triangle L f32[N, C, C] times `scale` of a `correlated` one, of raw numbers."""
        own, mean = b.split(raw, axis=1, sizes=(channels**2, channels), out="root mean")
        root = b.reshape(self._positive(b, own), shape=(raw.shape[0], channels, channels), out="root")
        # The diagonal is at least `least`, other numbers are at least 0.
        root = b.maximum(root, b.constant(np.eye(channels) * self.least, "f32", out="least"), out="root")
        root = b.mul(root, b.constant(np.tri(channels) * scale, "f32", out="lower"), out="root")
        return mean, root

    def _correlated_density(self, b: Builder, raw: Var, x: Var, scale: float) -> Var:
        """f32[N]: the log-density of x f32[N, C]: L z = x - mean, solved row by row."""
        rows, channels = x.shape
        mean, root = self.correlation(b, raw, int(channels), scale)
        unit = b.constant(np.eye(int(channels)), "f32", out="unit")
        y = b.transpose(x - mean, perm=(1, 0), out="y")
        diagonal = b.sum(root * unit, axes=(2,), keepdims=False, out="diagonal")
        tables = [y, b.transpose(root, perm=(1, 0, 2), out="row"), b.transpose(diagonal, perm=(1, 0)), unit]

        def body(b: Builder, i: Var, kept: Any, carried: tuple[Var, ...], at: tuple[Var, ...]) -> Any:
            (z,), (y, row, own, unit) = carried, at
            known = b.sum(row * z, axes=(1,), keepdims=False, out="known")
            found = b.reshape(b.op("sub", y, known) / own, shape=(rows, 1), out="found")
            return (b.add(z, found * unit, out="z"),), ()

        (z,) = as_tuple(b.loop("whiten", int(channels), body, carried=[b.mul(x, 0.0, out="z")], tables=tables))
        own = b.add(z * z * -0.5, -0.5 * math.log(2 * math.pi), out="own")
        own = b.op("sub", own, b.log(diagonal), out="own")
        return b.sum(own, axes=(1,), keepdims=False, out="log_density")

    def log_density(self, b: Builder, raw: Var, x: Var, scale: float = 1.0, sharpness: float = 1.0) -> Var:
        """f32[N]: the log-density of x f32[N, C]; `scale` and `sharpness` as in `parameters`."""
        rows, channels = x.shape
        if self.correlated:
            return self._correlated_density(b, raw, x, scale)
        logits, mean, deviation = self.parameters(b, raw, int(channels), scale, sharpness)
        own = log_normal(b, b.reshape(x, shape=(rows, channels, 1)), mean, deviation)
        if not self.per_channel:
            own = b.sum(own, axes=(1,), keepdims=True, out="own")
        top = b.max(logits, axes=(2,), keepdims=True)
        total = b.add(b.log(b.sum(b.exp(logits - top), axes=(2,), keepdims=True)), top, out="total")
        own = b.op("add", own, b.op("sub", logits, total), out="own")
        top = b.max(own, axes=(2,), keepdims=True, out="top")
        found = b.add(b.log(b.sum(b.exp(own - top), axes=(2,), keepdims=True)), top, out="found")
        return b.sum(found, axes=(1, 2), keepdims=False, out="log_density")

    def component(self, b: Builder, logits: Var, u: Var) -> Var:
        """f32[N, C or 1, M]: one for the component that u f32[N, C or 1] falls on, by inverse CDF, and zeros."""
        chosen = draw(b, logits, u, out="chosen")
        place = b.reshape(b.arange(self.components), shape=(1, 1, self.components))
        chosen = b.reshape(chosen, shape=(*chosen.shape, 1))
        return b.cast(b.equal(place, chosen), to="f32", out="one")


def of_component(b: Builder, v: Var, one: Var, out: str) -> Var:
    """f32[N, C]: v f32[N, C, M] of the component that `one` marks."""
    return b.sum(b.mul(v, one), axes=(2,), keepdims=False, out=out)


def log_normal(b: Builder, x: Any, mean: Var, deviation: Var) -> Var:
    z = b.div(b.op("sub", x, mean), deviation, out="z")
    return b.op("sub", b.mul(b.mul(z, z), -0.5), b.add(b.log(deviation), 0.5 * math.log(2 * math.pi)), out="own")
