"""Distributions of a pixel: a mixture of discretised logistics, or a category for each of its channels.

Parameters of a mixture of K for C channels (1 or 3) are, in this order: K logits, and for each channel K means, K log
scales and, for three channels, K coefficients, by which the mean of green follows red, and that of blue both
(Salimans et al. 2017, arXiv:1701.05517). Pixels are between -1 and 1.

Symbols: B batch, C channels, N pixels, K components, V values.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log
from typing import Any

from latentc.components.kit.tokens import draw
from latentc.ir.builder import Builder, Var

_LEAST_LOG_SCALE = -7.0
_NARROW = 0.02
"""Bins narrower than this, in units of the scale, have their mass from a series."""
_LEAST_MASS = 1e-5
"""Bins of less mass are taken to have the density of their centre, as the authors do."""
_EDGE = 1e-5
"""Uniform numbers are kept this far from 0 and 1."""


@dataclass(frozen=True)
class LogisticMixture:
    """A mixture of `components` logistics, each discretised to `levels` values from -1 to 1."""

    components: Any
    levels: int = 256

    def features(self, channels: Any) -> Any:
        """How many numbers describe a pixel."""
        return self.components * (1 + channels * (3 if int(channels) == 3 else 2))

    def draws(self, channels: int) -> int:
        """How many uniform numbers a pixel is drawn with."""
        return self.components + channels

    def log_prob(self, b: Builder, params: Var, x: Var) -> Var:
        """f32[B, N]: log-probability in nats of pixels x f32[B, N, C] under params f32[B, N, features]."""
        channels = int(x.shape[2])
        logits, means, log_scales = self._parts(b, params, channels, self._columns(b, x))
        half = 1 / (self.levels - 1)
        log_p: Var | None = None
        for column, mean, log_scale in zip(self._columns(b, x), means, log_scales, strict=True):
            inverse = b.exp(-log_scale, out="inverse_scale")
            centred = b.op("sub", column, mean, out="centred")
            upper, lower = inverse * (centred + half), inverse * (centred - half)
            # log(sigmoid(upper) - sigmoid(lower)) without the difference of two nearly equal numbers.
            width = b.mul(inverse, 2 * half, out="width")
            narrow = (log(2 * half) - log_scale) - width * 0.5 + width * width * (1 / 24)
            wide = b.log(1.0 - b.exp(-b.maximum(width, _NARROW)))
            log_width = b.where(b.less(width, _NARROW), narrow, wide, out="log_width")
            log_mass = b.op("sub", log_width - b.softplus(-upper), b.softplus(lower), out="log_mass")
            middle = b.mul(inverse, centred, out="middle")
            density = middle - log_scale - b.softplus(middle) * 2.0 - log((self.levels - 1) / 2)
            inner = b.where(b.greater(log_mass, log(_LEAST_MASS)), log_mass, density)
            top = b.where(b.greater(column, 0.999), b.neg(b.softplus(lower)), inner)
            own = b.where(b.less(column, -0.999), upper - b.softplus(upper), top, out="log_p")
            log_p = own if log_p is None else b.add(log_p, own, out="log_p")
        assert log_p is not None
        joint = b.logsumexp(b.add(log_p, logits), axis=2)
        return b.op("sub", joint, b.logsumexp(logits, axis=2), out="log_p")

    def draw(self, b: Builder, params: Var, u: Var, channels: int) -> Var:
        """f32[B, N, C]: pixels drawn from params f32[B, N, features] with uniform numbers u f32[B, N, draws]."""
        batch, count = params.shape[:2]
        u = b.add(u * (1 - 2 * _EDGE), _EDGE, out="u")
        choice, uniform = b.split(u, axis=2, sizes=(self.components, channels), out="choice uniform")
        logits, *rest = self._split(b, params, channels)
        gumbel = b.op("sub", logits, b.log(b.neg(b.log(choice))), out="gumbel")
        index = b.reshape(b.argmax(gumbel, axis=2), shape=(batch, count, 1), out="index")
        taken = [b.take_along(x, index, axis=2, out="taken") for x in rest]
        noise = b.op("sub", b.log(uniform), b.log(1.0 - uniform), out="logistic")
        of = 3 if channels == 3 else 2
        coefficients = [b.tanh(taken[of * c + 2]) for c in range(channels)] if channels == 3 else []
        pixel: list[Var] = []
        for c in range(channels):
            scale = b.exp(b.maximum(taken[of * c + 1], _LEAST_LOG_SCALE), out="scale")
            value = taken[of * c] + scale * b.slice(noise, axis=2, start=c, stop=c + 1)
            for earlier, coefficient in zip(pixel, coefficients[_FIRST[c] :], strict=False):
                value = value + coefficient * earlier
            pixel.append(b.clamp(value, low=-1.0, high=1.0, out="value"))
        return pixel[0] if channels == 1 else b.concat(*pixel, axis=2, out="pixel")

    def _split(self, b: Builder, params: Var, channels: int) -> tuple[Var, ...]:
        """f32[B, N, K] each: the logits, then the parameters of every channel."""
        of = 3 if channels == 3 else 2
        names = ["logits", *(["mean", "log_scale", "coefficient"][:of]) * channels]
        return tuple(b.split(params, axis=2, sizes=(self.components,) * len(names), out=" ".join(names)))

    def _parts(self, b: Builder, params: Var, channels: int, values: list[Var]) -> tuple[Var, list[Var], list[Var]]:
        """Logits, and of every channel the means, given the `values` of those before it, and the log scales."""
        logits, *rest = self._split(b, params, channels)
        of = 3 if channels == 3 else 2
        coefficients = [b.tanh(rest[of * c + 2]) for c in range(channels)] if channels == 3 else []
        means, log_scales = [], []
        for c in range(channels):
            mean = rest[of * c]
            for earlier, coefficient in zip(values[:c], coefficients[_FIRST[c] :], strict=False):
                mean = b.add(mean, coefficient * earlier, out="mean")
            means.append(mean)
            log_scales.append(b.maximum(rest[of * c + 1], _LEAST_LOG_SCALE, out="log_scale"))
        return logits, means, log_scales

    def _columns(self, b: Builder, x: Var) -> list[Var]:
        """The channels of pixels [B, N, C], each [B, N, 1]."""
        return [b.slice(x, axis=2, start=c, stop=c + 1, out="column") for c in range(int(x.shape[2]))]


_FIRST = (0, 0, 1)
"""The first coefficient of each channel: green follows red by coefficient 0, blue both by 1 and 2."""


@dataclass(frozen=True)
class Categories:
    """A softmax over `levels` values from -1 to 1 for each channel (van den Oord et al. 2016, arXiv:1601.06759)."""

    levels: int = 256

    def features(self, channels: int) -> int:
        """How many numbers describe a pixel: V logits for each channel, channel after channel."""
        return self.levels * channels

    def draws(self, channels: int) -> int:
        """How many uniform numbers a pixel is drawn with."""
        return channels

    def log_prob(self, b: Builder, params: Var, x: Var) -> Var:
        """f32[B, N]: log-probability in nats of pixels x f32[B, N, C] under params f32[B, N, C V]."""
        batch, count, channels = x.shape
        logits = b.reshape(params, shape=(batch, count, channels, self.levels), out="logits")
        steps = b.clamp((x + 1.0) * ((self.levels - 1) / 2) + 0.5, low=0.0, high=self.levels - 1.0)
        index = b.reshape(b.cast(b.floor(steps), to="i64"), shape=(batch, count, channels, 1), out="index")
        own = b.take_along(b.log_softmax(logits, axis=3), index, axis=3)
        return b.sum(own, axes=(2, 3), keepdims=False, out="log_p")

    def draw_channel(self, b: Builder, logits: Var, u: Var) -> Var:
        """f32[B]: a channel drawn from logits f32[B, V] with uniform numbers u f32[B]."""
        value = b.cast(draw(b, logits, u, out="index"), to="f32")
        return b.op("sub", value * (2 / (self.levels - 1)), 1.0, out="value")
