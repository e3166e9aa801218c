"""Mixtures of discretised logistics of pixels from 0 to 1, with the parameters in the order of srVAE's code.

Symbols: B batch, C channels, N pixels, K components.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log

from latentc.ir.builder import Builder, Var
from latentc.systems.pixelcnn.pixels import LogisticMixture

LEAST_LOG_SCALE = -7.0
"""Of pixels from 0 to 1."""


@dataclass(frozen=True)
class UnitMixture(LogisticMixture):
    """A mixture whose parameters are of pixels from 0 to 1: K logits, K C means, K C log scales, K C coefficients.

    Components come before channels, and one channel has no coefficients. Pixels themselves are from -1 to 1, as
    everywhere. Uniform numbers of 1/2 draw the mean of the likeliest component.
    """

    def log_prob(self, b: Builder, params: Var, x: Var) -> Var:
        """f32[B, N]: log-probability in nats of pixels x f32[B, N, C] under params f32[B, N, features]."""
        return super().log_prob(b, self._centred(b, params, int(x.shape[2])), x)

    def draw(self, b: Builder, params: Var, u: Var, channels: int) -> Var:
        """f32[B, N, C]: pixels drawn from params f32[B, N, features] with uniform numbers u f32[B, N, draws]."""
        return super().draw(b, self._centred(b, params, channels), u, channels)

    def _centred(self, b: Builder, params: Var, channels: int) -> Var:
        """The same mixture of pixels from -1 to 1, its parameters in the order of the base class."""
        k, (batch, count, _) = self.components, params.shape
        names = ("means", "log_scales", "coefficients")[: 3 if channels == 3 else 2]
        logits, *parts = b.split(
            params, axis=2, sizes=(k, *(k * channels for _ in names)), out=" ".join(("logits", *names))
        )
        parts = [b.reshape(x, shape=(batch, count, k, channels), out=x.value.name) for x in parts]
        means = b.op("sub", parts[0] * 2.0, 1.0, out="means")
        scales = b.add(b.maximum(parts[1], LEAST_LOG_SCALE), log(2), out="log_scales")

        def of_channel(x: Var, c: int, out: str) -> Var:
            own = b.slice(x, axis=3, start=c, stop=c + 1, out=out)
            return b.reshape(own, shape=(batch, count, k), out=out)

        found = [logits]
        follow = [b.tanh(of_channel(parts[2], c, "follow")) for c in range(channels)] if channels == 3 else []
        for c in range(channels):
            mean = of_channel(means, c, "mean")
            # Green follows red by the first coefficient, blue both by the others: of pixels whose 0 is now -1.
            for coefficient in ((), follow[:1], follow[1:])[c]:
                mean = b.add(mean, coefficient, out="mean")
            found += [mean, of_channel(scales, c, "log_scale")]
            found += [of_channel(parts[2], c, "coefficient")] if channels == 3 else []
        return b.concat(*found, axis=2, out="params")
