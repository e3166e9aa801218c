"""Signs of channels as tokens, with Open-MAGVIT2's entropies."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from latentc.components.blocks.bottlenecks.codebook import LEAST
from latentc.components.kit.tokens import bits_of
from latentc.ir.builder import Builder, Var
from latentc.systems.maskbit.lookup_free import LookupFree


class SmoothedLookupFree(LookupFree):
    """As `lookup_free`, but in the entropies a constant is added to the probabilities of the mean, and none to those of
    a position (Open-MAGVIT2, Luo et al. 2024, arXiv:2409.04410), where `lookup_free` clamps both.
    """

    kind: Literal["smoothed_lookup_free"]  # type: ignore[assignment]
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "smoothed_lookup_free", "channels": 4, "entropy": 0.1}

    def _entropies(self, b: Builder, h: Var, static: dict[str, Any]) -> Var:
        batch, latent, rows, columns = h.shape
        z = b.reshape(b.transpose(h, perm=(0, 2, 3, 1)), shape=(batch, rows * columns, latent))
        tokens = bits_of(b, b.arange(static["codes"], out="token"), self.channels)
        logits = b.mul(b.linear(z, tokens), 2.0 / self.temperature, out="logits")
        p = b.softmax(logits, axis=2, out="p")
        each = b.sum(p * b.log_softmax(logits, axis=2), axes=(2,), keepdims=False)
        each = b.neg(b.mean(each, axes=(1,), keepdims=False), out="each")
        mean = b.mean(p, axes=(0, 1), keepdims=True, out="mean")
        of_mean = b.sum(mean * b.log(mean + LEAST), axes=(1, 2), keepdims=False, out="of_mean")
        return each + of_mean * self.diversity
