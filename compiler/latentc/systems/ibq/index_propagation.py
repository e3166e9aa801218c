"""A codebook of which every row gets gradients."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.blocks.bottlenecks.codebook import LEAST, Codebook
from latentc.ir.builder import Builder, Var, f32


class IndexPropagation(Codebook):
    """Replaces each latent vector by the codebook row of the largest product, with gradients through the softmax of the
    products with all rows (IBQ, Shi et al. 2024, arXiv:2412.02692).

    The penalty is the squared error between latents and decoded rows, through which gradients reach all rows, plus that
    of the chosen row: its gradient to the latents is weighted by `commitment`, that to the row by `pull`.
    """

    kind: Literal["index_propagation"]  # type: ignore[assignment]
    normalize: Literal[False] = Field(False, description="always false: rows are chosen by products")
    decay: None = Field(None, description="always null: rows are trained")
    commitment: float = Field(
        1.0, ge=0, description="weight of the commitment loss, which moves the encoder's output towards rows"
    )
    pull: float = Field(0.25, ge=0, description="weight of the loss that moves rows towards the encoder's output")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "index_propagation", "size": 16, "channels": 4, "entropy": 0.05}

    def table(self, b: Builder, static: dict[str, Any]) -> Var:
        return b.param("codebook.weight", f32(static["codes"], static["latent"]), "normal", std=1.0)

    def _nearest(self, b: Builder, rows: Var, table: Var) -> Var:
        return b.argmax(b.linear(rows, table, out="products"), axis=1, out="index")

    def _weighted(
        self, b: Builder, h: Var, noise: Var | None, static: dict[str, Any], entropy: float | Var
    ) -> tuple[Var, Var]:
        table, rows = self.table(b, static), self._rows(b, h, static["latent"])
        products = b.linear(rows, table, out="products")
        index = b.argmax(products, axis=1, out="index")
        one = b.equal(b.reshape(index, shape=(index.shape[0], 1)), b.arange(table.shape[0]))
        soft = b.softmax(products, axis=1, out="soft")
        # Straight-through: the row is looked up, but the gradient is that of the softmax-weighted mean.
        one_hot = b.add(soft, b.stop_gradient(b.cast(one, to="f32") - soft), out="one_hot")
        decoded = b.matmul(one_hot, table, out="decoded")
        chosen = b.embedding(table, index, out="chosen")
        error = decoded - rows
        commit = b.stop_gradient(chosen) - rows
        pull = chosen - b.stop_gradient(rows)
        squared = error * error + commit * commit * self.commitment + pull * pull * self.pull
        penalty = b.mean(self._grid(b, squared, h), axes=(1, 2, 3), keepdims=False, out="penalty")
        if self.entropy:
            penalty = b.add(penalty, self._entropies(b, rows, table, h) * entropy, out="penalty")
        return self._grid(b, decoded, h), penalty

    def _entropies(self, b: Builder, rows: Var, table: Var, h: Var) -> Var:
        logits = b.mul(b.linear(rows, table), 1 / self.entropy_temperature, out="logits")
        p = b.softmax(logits, axis=1, out="p")
        each = b.sum(p * b.log_softmax(logits, axis=1), axes=(1,), keepdims=False)
        each = b.reshape(each, shape=(h.shape[0], h.shape[2] * h.shape[3]))
        each = b.neg(b.mean(each, axes=(1,), keepdims=False), out="each")
        usage = b.mean(p, axes=(0,), keepdims=False, out="usage")
        return each + b.sum(usage * b.log(usage + LEAST), axes=(0,), keepdims=False, out="of_usage")
