"""Latents of which only the signs remain: tokens are their bits."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.blocks.bottleneck import Bottleneck
from latentc.components.kit.tokens import bits_of
from latentc.ir.builder import Builder, Var, i64
from latentc.ir.types import B, TensorType

LEAST = 1e-5
"""Least probability whose logarithm is taken."""


class LookupFree(Bottleneck):
    """The sign of each channel is one bit of the token (Yu et al. 2023, arXiv:2310.05737), so `channels` is the number
    of bits. The penalty moves the encoder's output towards its signs, and reduces the entropy of each position's
    distribution over tokens, softmax(2 z c / temperature) for token c, relative to the entropy of their mean.
    """

    kind: Literal["lookup_free"]
    channels: int = Field(gt=0, le=24, description="bits of a token (Z): there are 2^Z tokens")
    commitment: float = Field(
        0.25, ge=0, description="weight of the commitment loss, which moves the encoder's output towards its signs"
    )
    entropy: float = Field(0.0, ge=0, description="weight of the entropy loss")
    temperature: float = Field(0.01, gt=0, description="temperature of the distribution over tokens")
    diversity: float = Field(
        1.0,
        ge=0,
        description="weight of the entropy of the mean distribution, relative to that of the per-position entropy",
    )
    discrete: ClassVar[bool] = True
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "lookup_free", "channels": 4, "entropy": 0.02}

    def static(self) -> dict[str, Any]:
        return {"codes": 2**self.channels}

    def sizes(self) -> dict[str, Any]:
        return super().sizes() | {"signs": 1}

    def _signs(self, b: Builder, h: Var) -> Var:
        return b.cast(b.greater(h, 0.0), to="f32") * 2.0 - 1.0

    def codes(self, b: Builder, h: Var, static: dict[str, Any]) -> Var:
        batch, latent, rows, columns = h.shape
        bits = b.reshape(b.cast(b.greater(h, 0.0), to="i64"), shape=(batch, latent, rows * columns), out="bits")
        powers = b.constant([[2**i] for i in range(self.channels)], "i64", out="powers")
        return b.sum(bits * powers, axes=(1,), keepdims=False, out="tokens")

    def latents(self, b: Builder, codes: Var, static: dict[str, Any]) -> Var:
        batch, rows, columns = codes.shape[0], static["rows"], static["columns"]
        z = b.transpose(bits_of(b, codes, self.channels), perm=(0, 2, 1))
        return b.reshape(z, shape=(batch, static["latent"], rows, columns), out="z")

    def mode(self, b: Builder, h: Var, static: dict[str, Any]) -> Var:
        return self._signs(b, h)

    def regularized(self, b: Builder, h: Var, noise: Var | None, static: dict[str, Any]) -> tuple[Var, Var]:
        return self._weighted(b, h, static, self.entropy)

    def annealed(self, b: Builder, h: Var, noise: Var | None, static: dict[str, Any], factor: Var) -> tuple[Var, Var]:
        if not self.entropy:
            return super().annealed(b, h, noise, static, factor)
        return self._weighted(b, h, static, b.mul(factor, self.entropy, out="entropy"))

    def _weighted(self, b: Builder, h: Var, static: dict[str, Any], entropy: float | Var) -> tuple[Var, Var]:
        signs = self._signs(b, h)
        pull = h - signs
        penalty = b.mean(pull * pull * self.commitment, axes=(1, 2, 3), keepdims=False, out="penalty")
        if self.entropy:
            penalty = b.add(penalty, self._entropies(b, h, static) * entropy, out="penalty")
        return h + b.stop_gradient(signs - h), penalty

    def _entropies(self, b: Builder, h: Var, static: dict[str, Any]) -> Var:
        """f32[B]: the mean entropy of a sample's positions less that of the mean over the batch, in nats."""
        batch, latent, rows, columns = h.shape
        z = b.reshape(b.transpose(h, perm=(0, 2, 3, 1)), shape=(batch, rows * columns, latent))
        tokens = bits_of(b, b.arange(static["codes"], out="token"), self.channels)
        p = b.softmax(b.linear(z, tokens) * (2.0 / self.temperature), axis=2, out="p")
        each = b.sum(p * b.log(b.maximum(p, LEAST)), axes=(2,), keepdims=False)
        each = b.neg(b.mean(each, axes=(1,), keepdims=False), out="each")
        mean = b.mean(p, axes=(0, 1), keepdims=True, out="mean")
        of_mean = b.sum(mean * b.log(b.maximum(mean, LEAST)), axes=(1, 2), keepdims=False, out="of_mean")
        return each + of_mean * self.diversity

    def decoded_type(self, rows: int, columns: int) -> TensorType:
        return i64(B, rows * columns)
