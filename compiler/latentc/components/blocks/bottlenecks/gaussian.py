"""Latents drawn from a normal distribution per position."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.blocks.bottleneck import Bottleneck
from latentc.components.contract import Port
from latentc.ir.builder import Builder, Var, f32
from latentc.ir.types import B, TensorType

LOW, HIGH = -30.0, 20.0
"""Bounds of the log-variance."""


class Gaussian(Bottleneck):
    """The encoder outputs mean and log-variance of the latents (Kingma and Welling 2013, arXiv:1312.6114).

    The penalty is the KL divergence to a standard normal, in nats per sample.
    """

    kind: Literal["gaussian"]
    variational: bool = Field(
        True,
        description="false: deterministic latents: the encoder outputs them directly, without sampling or KL penalty",
    )
    added_noise: float = Field(
        0.0,
        ge=0,
        le=1_000,
        description="standard deviation of noise added to the latents in training, which the decoder learns to "
        "remove (STARFlow)",
    )
    ANY_RANK: ClassVar[bool] = True
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "gaussian", "channels": 4}

    def noise_ports(self, rows: int, columns: int) -> tuple[Port, ...]:
        noise = Port("noise", f32(B, self.channels, rows, columns), "noise", distribution="normal")
        return (noise,) if self.variational or self.added_noise else ()

    @property
    def encoded(self) -> int:
        return 2 if self.variational else 1

    @property
    def coded(self) -> int:
        return 2

    def codes(self, b: Builder, h: Var, static: dict[str, Any]) -> Var:
        if self.variational:
            return h
        return b.concat(h, b.broadcast_to(b.scalar(LOW, h), h, shape=h.shape), axis=1, out="codes")

    def latents(self, b: Builder, codes: Var, static: dict[str, Any]) -> Var:
        return codes

    def mode(self, b: Builder, h: Var, static: dict[str, Any]) -> Var:
        latent = static["latent"]
        return b.slice(h, axis=1, start=0, stop=latent, out="mean") if self.variational else h

    def regularized(self, b: Builder, h: Var, noise: Var | None, static: dict[str, Any]) -> tuple[Var, Var]:
        if not self.variational:
            z = h if noise is None else b.add(h, noise * self.added_noise, out="z")
            return z, b.broadcast_to(b.scalar(0.0, h), h, shape=(h.shape[0],), out="penalty")
        assert noise is not None
        latent = static["latent"]
        mean, log_variance = b.split(h, axis=1, sizes=(latent, latent), out="mean log_variance")
        log_variance = b.clamp(log_variance, low=LOW, high=HIGH, out="log_variance")
        if self.added_noise:  # the sum of two normals is normal again
            std = b.sqrt(b.exp(log_variance) + self.added_noise**2, out="std")
        else:
            std = b.exp(log_variance * 0.5, out="std")
        z = mean + std * noise
        terms = b.op("mul", mean * mean + b.exp(log_variance) - log_variance - 1.0, 0.5, out="kl")
        return z, b.sum(terms, axes=tuple(range(1, h.type.rank)), keepdims=False, out="penalty")

    def decoded_type(self, rows: int, columns: int) -> TensorType:
        return f32(B, self.channels, rows, columns)
