"""Latents drawn from a normal distribution per position."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from latentc.components.blocks.bottleneck import Bottleneck
from latentc.components.contract import Port
from latentc.ir.builder import Builder, Var, f32
from latentc.ir.types import B, TensorType

LOW, HIGH = -30.0, 20.0
"""Bounds of the log-variance."""


class Gaussian(Bottleneck):
    """The encoder gives mean and log-variance of the latents (Kingma and Welling 2013, arXiv:1312.6114).

    The penalty is the KL divergence to a standard normal, in nats per sample.
    """

    kind: Literal["gaussian"]
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "gaussian", "channels": 4}

    def noise_ports(self, rows: int, columns: int) -> tuple[Port, ...]:
        return (Port("noise", f32(B, self.channels, rows, columns), "noise", distribution="normal"),)

    @property
    def encoded(self) -> int:
        return 2

    def codes(self, b: Builder, h: Var, static: dict[str, Any]) -> Var:
        return h

    def latents(self, b: Builder, codes: Var, static: dict[str, Any]) -> Var:
        return codes

    def mode(self, b: Builder, h: Var, static: dict[str, Any]) -> Var:
        latent = static["latent"]
        return b.slice(h, axis=1, start=0, stop=latent, out="mean")

    def regularized(self, b: Builder, h: Var, noise: Var | None, static: dict[str, Any]) -> tuple[Var, Var]:
        assert noise is not None
        latent = static["latent"]
        mean, log_variance = b.split(h, axis=1, sizes=(latent, latent), out="mean log_variance")
        log_variance = b.clamp(log_variance, low=LOW, high=HIGH, out="log_variance")
        z = mean + b.exp(log_variance * 0.5, out="std") * noise
        terms = b.op("mul", mean * mean + b.exp(log_variance) - log_variance - 1.0, 0.5, out="kl")
        return z, b.sum(terms, axes=(1, 2, 3), keepdims=False, out="penalty")

    def decoded_type(self, rows: int, columns: int) -> TensorType:
        return f32(B, self.channels, rows, columns)
