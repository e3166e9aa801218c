"""Latents that are rows of a learned table."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.blocks.bottleneck import SelectedRows
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import Builder, Var, f32, i64
from latentc.ir.types import B, TensorType

LEAST = 1e-5
"""Added to a probability whose logarithm is taken."""
EPS = 1e-12
"""Least length that a vector is divided by."""


class Codebook(SelectedRows):
    """Replaces each latent vector by the nearest codebook row (van den Oord et al. 2017, arXiv:1711.00937).

    The penalty moves the row towards the encoder's output, weighted by `pull`, and the output towards the row, weighted
    by `commitment`. With `decay`, rows are not trained but average the latents nearest to them.
    """

    kind: Literal["codebook"]
    size: int = Field(gt=1, le=16_777_216, description="rows of the codebook: number of different tokens")
    normalize: bool = Field(
        False,
        description="compare directions: rows and latents are normalised to length 1 (Yu et al. 2021, "
        "arXiv:2110.04627)",
    )
    pull: float = Field(
        1.0, ge=0, description="weight of the loss that moves rows towards the encoder's output; unused with `decay`"
    )
    commitment: float = Field(
        0.25, ge=0, description="weight of the commitment loss, which moves the encoder's output towards rows"
    )
    decay: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="decay per pass of the averages of latents that rows are, in place of `pull` (van den Oord et al. "
        "2017, appendix A.1; `EMAVectorQuantizer` of taming transformers); null: rows are trained",
    )
    smoothing: float = Field(
        1e-5, gt=0, le=1, description="with `decay`: count added to that of every row's latents (Laplace smoothing)"
    )
    entropy: float = Field(
        0.0,
        ge=0,
        description="weight of the entropy loss: mean entropy of each position's distribution over rows, minus the "
        "entropy of the mean distribution (Chang et al. 2022, arXiv:2202.04200)",
    )
    entropy_temperature: float = Field(
        0.01, gt=0, description="temperature of that distribution, the softmax of negative squared distances"
    )
    discrete: ClassVar[bool] = True
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "codebook", "size": 16, "channels": 4}

    def problems(self, spec: Spec) -> Iterator[Problem]:
        if self.decay is not None and self.normalize:
            message = "rows that average latents have no fixed length, but `normalize` compares directions"
            yield Problem(("decay",), message, "leave out either")
        yield from self.problems_of_rows()

    def static(self) -> dict[str, Any]:
        return {"codes": self.size}

    def table(self, b: Builder, static: dict[str, Any]) -> Var:
        of = f32(static["codes"], static["latent"])
        if self.decay is not None:
            return self._of_averages(b, *self._averages(b, static))
        return self._unit(b, b.param("codebook.weight", of, "uniform", bound=1 / self.size))

    def _averages(self, b: Builder, static: dict[str, Any]) -> tuple[Var, Var]:
        """Averages over passes of the sum of each row's latents f32[K, Z] and of their number f32[K]."""
        sums = b.param("codebook.sums", f32(static["codes"], static["latent"]), "normal", "state", std=1.0)
        return sums, b.param("codebook.counts", f32(static["codes"]), "zeros", "state")

    def _of_averages(self, b: Builder, sums: Var, counts: Var) -> Var:
        """The rows f32[K, Z]: before the first pass they are what `sums` starts from."""
        total = b.sum(counts, axes=(0,), keepdims=True, out="total")
        padded = b.add(counts, self.smoothing, out="padded")
        smoothed = padded / b.sum(padded, axes=(0,), keepdims=True) * total
        smoothed = b.where(b.greater(total, 0.0), smoothed, b.scalar(1.0, smoothed), out="smoothed")
        return b.div(sums, b.reshape(smoothed, shape=(sums.shape[0], 1)), out="table")

    def _moved(self, b: Builder, averages: tuple[Var, Var], rows: Var, index: Var) -> Var:
        """The rows before this pass of training, which moves their averages towards the latents that chose them."""
        sums, counts = averages
        chosen = b.equal(b.reshape(index, shape=(index.shape[0], 1)), b.arange(sums.shape[0]))
        one = b.cast(chosen, to="f32", out="one")
        now = b.matmul(b.transpose(one, perm=(1, 0)), b.stop_gradient(rows), out="now")
        number = b.sum(one, axes=(0,), keepdims=False, out="number")
        assert self.decay is not None
        sums = b.running_mean(b.reshape(now, shape=(1, *now.shape)), sums, momentum=self.decay, out="sums")
        counts = b.running_mean(b.reshape(number, shape=(1, *number.shape)), counts, momentum=self.decay, out="counts")
        return self._of_averages(b, sums, counts)

    def _unit(self, b: Builder, x: Var) -> Var:
        """Rows of x divided by their length, if directions are compared."""
        return unit(b, x) if self.normalize else x

    def _rows(self, b: Builder, h: Var, latent: int) -> Var:
        """Latents [B, Z, h, w] as rows [B h w, Z]."""
        count = h.shape[0] * h.shape[2] * h.shape[3]
        return self._unit(b, b.reshape(b.transpose(h, perm=(0, 2, 3, 1)), shape=(count, latent), out="rows"))

    def _nearest(self, b: Builder, rows: Var, table: Var) -> Var:
        """i64[B h w]: which row of the table is nearest to each row of latents."""
        closeness = b.linear(rows, table, out="closeness")
        if not self.normalize:
            closeness = closeness * 2.0 - b.sum(table * table, axes=(1,), keepdims=False)
        return b.argmax(closeness, axis=1, out="index")

    def chosen(self, b: Builder, rows: Var, table: Var, noise: Var | None) -> Var:
        """i64[B h w]: the row of the table that training chooses for each row of latents."""
        return self._nearest(b, rows, table)

    def codes(self, b: Builder, h: Var, static: dict[str, Any]) -> Var:
        index = self._nearest(b, self._rows(b, h, static["latent"]), self.table(b, static))
        index = self.tokens_of(b, index)
        return b.reshape(index, shape=(h.shape[0], h.shape[2] * h.shape[3]), out="tokens")

    def latents(self, b: Builder, codes: Var, static: dict[str, Any]) -> Var:
        batch, rows, columns = codes.shape[0], static["rows"], static["columns"]
        z = b.embedding(self.table(b, static), self.rows_of(b, codes), out="z")
        return b.transpose(b.reshape(z, shape=(batch, rows, columns, static["latent"])), perm=(0, 3, 1, 2), out="z")

    def mode(self, b: Builder, h: Var, static: dict[str, Any]) -> Var:
        table = self.table(b, static)
        chosen = b.embedding(table, self._nearest(b, self._rows(b, h, static["latent"]), table), out="chosen")
        return self._grid(b, chosen, h)

    def _grid(self, b: Builder, rows: Var, h: Var) -> Var:
        """Rows [B h w, Z] as latents like h."""
        batch, latent, height, width = h.shape
        return b.transpose(b.reshape(rows, shape=(batch, height, width, latent)), perm=(0, 3, 1, 2), out="z")

    def regularized(self, b: Builder, h: Var, noise: Var | None, static: dict[str, Any]) -> tuple[Var, Var]:
        return self._weighted(b, h, noise, static, self.entropy)

    def annealed(self, b: Builder, h: Var, noise: Var | None, static: dict[str, Any], factor: Var) -> tuple[Var, Var]:
        if not self.entropy:
            return super().annealed(b, h, noise, static, factor)
        return self._weighted(b, h, noise, static, b.mul(factor, self.entropy, out="entropy"))

    def _weighted(
        self, b: Builder, h: Var, noise: Var | None, static: dict[str, Any], entropy: float | Var
    ) -> tuple[Var, Var]:
        averages = None if self.decay is None else self._averages(b, static)
        table = self.table(b, static) if averages is None else self._of_averages(b, *averages)
        rows = self._rows(b, h, static["latent"])
        index = self.chosen(b, rows, table, noise)
        if averages is not None:
            table = self._moved(b, averages, rows, index)
        chosen = b.embedding(table, index, out="chosen")
        commit = rows - b.stop_gradient(chosen)
        squared = commit * commit * self.commitment
        if averages is None:
            pull = chosen - b.stop_gradient(rows)
            squared = b.add(pull * pull if self.pull == 1.0 else pull * pull * self.pull, squared)
        penalty = self._grid(b, squared, h)
        penalty = b.mean(penalty, axes=(1, 2, 3), keepdims=False, out="penalty")
        if self.entropy:
            penalty = b.add(penalty, self._entropies(b, rows, table, h) * entropy, out="penalty")
        straight = rows + b.stop_gradient(chosen - rows)  # straight-through: the gradient ignores the choice of code
        return self._grid(b, straight, h), penalty

    def _entropies(self, b: Builder, rows: Var, table: Var, h: Var) -> Var:
        """f32[B]: the mean entropy of a sample's positions less that of the mean over the batch, in nats."""
        closeness = b.linear(rows, table) * 2.0 - b.sum(table * table, axes=(1,), keepdims=False)
        logits = b.mul(closeness, 1 / self.entropy_temperature, out="logits")
        p = b.softmax(logits, axis=1, out="p")
        each = b.sum(p * b.log_softmax(logits, axis=1), axes=(1,), keepdims=False)
        each = b.reshape(each, shape=(h.shape[0], h.shape[2] * h.shape[3]))
        each = b.neg(b.mean(each, axes=(1,), keepdims=False), out="each")
        usage = b.mean(p, axes=(0,), keepdims=False, out="usage")
        return each + b.sum(usage * b.log(usage + LEAST), axes=(0,), keepdims=False, out="of_usage")

    def decoded_type(self, rows: int, columns: int) -> TensorType:
        return i64(B, rows * columns)


def unit(b: Builder, x: Var) -> Var:
    """Rows of x f32[K, Z] divided by their length."""
    length = b.sqrt(b.sum(x * x, axes=(1,), keepdims=True))
    return b.div(x, b.maximum(length, EPS), out="unit")
