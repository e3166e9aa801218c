"""Rows of a table that are drawn from logits, with gradients through a softmax.

A file of its own because a `codebook` compares latents with its rows: here a convolution gives logits, and no row needs
to be near anything.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components import layers
from latentc.components.blocks.autoencoder import INIT
from latentc.components.blocks.bottleneck import SelectedRows
from latentc.components.contract import Port
from latentc.components.parts import Problem, Refusal, Spec
from latentc.ir.builder import Builder, Var, f32, i64
from latentc.ir.types import B, TensorType

LEAST = 1e-10
"""Added to a ratio of probabilities whose logarithm is taken."""


class GumbelCodebook(SelectedRows):
    """Replaces each latent vector by the most likely codebook row, with logits from a 1 x 1 convolution.

    Training adds Gumbel noise to the logits to draw the row, and backpropagates through their softmax with a
    temperature (Jang et al. 2016, arXiv:1611.01144), as `GumbelQuantize` of taming transformers. The penalty is `kl`
    times the KL divergence of the distribution from the uniform one. Their encoder also samples rows outside training;
    this one takes the most likely.
    """

    kind: Literal["gumbel_codebook"]
    size: int = Field(gt=1, le=16_777_216, description="rows of the codebook: number of different tokens")
    kl: float = Field(5e-4, ge=0, description="weight of the KL divergence from the uniform distribution")
    straight_through: bool = Field(
        True, description="training decodes the drawn row; false: the softmax-weighted mean of the rows"
    )
    temperature: float = Field(1.0, gt=0, le=1_024, description="Gumbel-softmax temperature at the first training step")
    final_temperature: float | None = Field(
        None, gt=0, le=1_024, description="temperature at the end of the half-cosine decay; null: constant"
    )
    temperature_steps: int = Field(
        1_000_000, gt=0, le=1_000_000_000, description="training steps over which the temperature decays"
    )
    discrete: ClassVar[bool] = True
    OWN_LOGITS: ClassVar[bool] = True
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "gumbel_codebook",
        "size": 16,
        "channels": 4,
        "final_temperature": 0.1,
        "temperature_steps": 100,
    }

    def noise_ports(self, rows: int, columns: int) -> tuple[Port, ...]:
        return (Port("gumbel", f32(B, rows * columns, self.size), "noise", distribution="gumbel"),)

    @property
    def uses_step(self) -> bool:
        return self.final_temperature is not None

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from self.problems_of_rows()

    def static(self) -> dict[str, Any]:
        return {"codes": self.size}

    def table(self, b: Builder, static: dict[str, Any]) -> Var:
        return b.param("codebook.weight", f32(static["codes"], static["latent"]), "normal", std=1.0)

    def _logits(self, b: Builder, h: Var, static: dict[str, Any]) -> Var:
        """f32[B, h w, K]: the logits of the rows for each position of h [B, Z, h, w]."""
        logits = layers.conv(b, "to_logits", h, static["codes"], 1, INIT, out="logits")
        logits = b.reshape(logits, shape=(h.shape[0], static["codes"], h.shape[2] * h.shape[3]))
        return b.transpose(logits, perm=(0, 2, 1), out="logits")

    def codes(self, b: Builder, h: Var, static: dict[str, Any]) -> Var:
        return self.tokens_of(b, self._likeliest(b, h, static))

    def _likeliest(self, b: Builder, h: Var, static: dict[str, Any]) -> Var:
        """i64[B, h w]: the number of the likeliest row for each position."""
        return b.argmax(self._logits(b, h, static), axis=2, out="index")

    def latents(self, b: Builder, codes: Var, static: dict[str, Any]) -> Var:
        rows = b.embedding(self.table(b, static), self.rows_of(b, codes), out="z")
        return _grid(b, rows, static["rows"], static["columns"])

    def mode(self, b: Builder, h: Var, static: dict[str, Any]) -> Var:
        chosen = b.embedding(self.table(b, static), self._likeliest(b, h, static), out="chosen")
        return _grid(b, chosen, h.shape[2], h.shape[3])

    def regularized(self, b: Builder, h: Var, noise: Var | None, static: dict[str, Any]) -> tuple[Var, Var]:
        if self.uses_step:
            message = "the network does not pass on the training step, only an `autoencoder` does"
            raise Refusal(message, "leave it out", ("bottleneck", "final_temperature"))
        return self._drawn(b, h, noise, static, 1 / self.temperature)

    def at_step(self, b: Builder, h: Var, noise: Var | None, static: dict[str, Any], step: Var) -> tuple[Var, Var]:
        assert self.final_temperature is not None
        part = b.mul(b.cast(step, to="f32"), 1 / self.temperature_steps)
        fallen = b.cos(b.mul(b.minimum(part, 1.0), math.pi), out="fallen")
        half = (self.temperature - self.final_temperature) / 2
        temperature = b.op("add", b.mul(fallen, half), self.final_temperature + half, out="temperature")
        return self._drawn(b, h, noise, static, b.div(1.0, temperature, out="sharpness"))

    def _drawn(
        self, b: Builder, h: Var, noise: Var | None, static: dict[str, Any], sharpness: float | Var
    ) -> tuple[Var, Var]:
        assert noise is not None
        table, logits = self.table(b, static), self._logits(b, h, static)
        perturbed = b.add(logits, b.reshape(noise, shape=logits.shape), out="perturbed")
        soft = b.softmax(b.mul(perturbed, sharpness), axis=2, out="soft")
        if self.straight_through:
            chosen = b.embedding(table, b.argmax(perturbed, axis=2), out="chosen")
            # Straight-through: the gradient reaches the logits as if the softmax itself were decoded.
            mean = b.matmul(soft, b.stop_gradient(table), out="mean")
            chosen = b.add(chosen, mean - b.stop_gradient(mean), out="chosen")
        else:
            chosen = b.matmul(soft, table, out="chosen")
        p = b.softmax(logits, axis=2, out="p")
        divergence = b.sum(p * b.log(p * float(self.size) + LEAST), axes=(2,), keepdims=False, out="divergence")
        penalty = b.mul(b.mean(divergence, axes=(1,), keepdims=False), self.kl, out="penalty")
        return _grid(b, chosen, h.shape[2], h.shape[3]), penalty

    def decoded_type(self, rows: int, columns: int) -> TensorType:
        return i64(B, rows * columns)


def _grid(b: Builder, rows: Var, height: Any, width: Any) -> Var:
    """Rows [B, h w, Z] as latents [B, Z, h, w]."""
    batch, _, latent = rows.shape
    return b.transpose(b.reshape(rows, shape=(batch, height, width, latent)), perm=(0, 3, 1, 2), out="z")
