"""Latents as residuals of ever more clusters of positions: the visual granularity of NVG.

The positions of a square are clustered in K stages, stage k in 2^k clusters of equal size; cluster c of a stage is
split into clusters 2 c and 2 c + 1 of the next, so that the labels of stage K say those of all.

Symbols: B batch, L = 2^K positions, Z channels of the latents, N clusters.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from latentc.components.kit.tokens import rows
from latentc.ir.builder import BlockBody, Builder, Var, module_class
from latentc.systems.var.scales import Scales, closeness, codebook_nearest, codebook_rows, codebook_table, smoothed

TAKEN = 1e30
"""Distance of what is clustered already."""


@dataclass(frozen=True)
class Granules(Scales):
    """`Scales` whose maps are clusters: `labels` i64[B, L] are those of stage K. Nothing is taken off a map that a
    convolution is added to. Where `warm` f32[] is 1, all rows of the codebook learn from what a cluster takes."""

    labels: Var | None = None
    warm: Var | None = None

    @property
    def kept(self) -> float:
        return 1.0

    @property
    def stages(self) -> int:
        """K."""
        return len(self.sides) - 1

    @property
    def lengths(self) -> tuple[int, ...]:
        return tuple(2**k for k in range(len(self.sides)))

    def _labels(self, b: Builder, k: int) -> Var:
        """i64[B, L]: the clusters of stage k."""
        assert self.labels is not None
        return b.div(self.labels, 2 ** (self.stages - k), out=f"labels_{k}")

    def nearest(self, b: Builder, rest: Var, k: int) -> Var:
        """i64[B, 2^k]: the codes nearest to the means of the residual f32[B, Z, h, h] over the clusters of stage k."""
        sizes = {"codes": self.codes, "latent": self.channels}
        return b.sub("codebook", codebook_nearest(self.normalize), self._means(b, rest, k), out=f"tokens_{k}", **sizes)

    def _means(self, b: Builder, rest: Var, k: int) -> Var:
        """f32[B, Z, 2^k, 1]: the means of the residual over the clusters of stage k."""
        assert self.labels is not None
        positions, count = self.sides[-1] ** 2, 2**k
        x = b.transpose(b.reshape(rest, shape=(rest.shape[0], self.channels, positions)), perm=(0, 2, 1), out="x")
        x = rows(b, x, b.argsort(self.labels, out="place"), "x")
        x = b.reshape(x, shape=(x.shape[0], count, positions // count, self.channels))
        x = b.transpose(b.mean(x, axes=(2,), keepdims=False), perm=(0, 2, 1), out="x")
        return b.reshape(x, shape=(x.shape[0], self.channels, count, 1), out="x")

    def quantized(self, b: Builder, latents: Var, each: Callable[[Var], None] | None = None) -> tuple[list[Var], Var]:
        if self.warm is None:
            return super().quantized(b, latents, each)
        tokens: list[Var] = []
        rest, found = b.stop_gradient(latents, out="rest"), None
        sizes = {"codes": self.codes, "latent": self.channels}
        for k in range(len(self.sides)):
            means, body = self._means(b, rest, k), codebook_softened(self.normalize)
            chosen, made = b.sub("codebook", body, means, self.warm, out=f"tokens_{k} rows_{k}", **sizes)
            added = self._placed(b, rows(b, made, self._labels(b, k), "h"), k)
            found = added if found is None else b.add(found, added, out="found")
            rest = b.op("sub", rest, added, out="rest")
            tokens.append(chosen)
            if each is not None:
                each(found)
        assert found is not None
        return tokens, found

    def added(self, b: Builder, tokens: Var, k: int) -> Var:
        """f32[B, Z, h, h]: what the codes i64[B, 2^k] of stage k add to the latents."""
        return self.assigned(b, tokens, self._labels(b, k), k)

    def assigned(self, b: Builder, tokens: Var, labels: Var, k: int) -> Var:
        """The same, of the labels i64[B, L] of stage k."""
        at = b.take_along(tokens, labels, axis=1, out="at")
        return self._placed(b, b.sub("codebook", codebook_rows, at, out="h", codes=self.codes, latent=self.channels), k)

    def _placed(self, b: Builder, h: Var, k: int) -> Var:
        """f32[B, Z, h, h]: rows f32[B, L, Z] as a map, smoothed."""
        side = self.sides[-1]
        h = b.transpose(b.reshape(h, shape=(h.shape[0], side, side, self.channels)), perm=(0, 3, 1, 2), out="h")
        if self.share:
            h = b.sub(f"smooth.{self.convolution(k)}", smoothed(self.kept, self.share), h, latent=self.channels)
        return h


@cache
def codebook_softened(normalize: bool) -> BlockBody:
    @module_class("ScaleCodebook", "softened", x="B latent N M")
    def softened(b: Builder, x: Var, warm: Var, *, codes: int, latent: int) -> tuple[Var, Var]:
        """The nearest rows to x and their numbers; where `warm` is 1, with the gradient of a softmax over all rows."""
        table, (batch, _, count, _) = codebook_table(b, codes, latent), x.shape
        x = b.reshape(b.transpose(x, perm=(0, 2, 3, 1)), shape=(batch * count, latent), out="x")
        close = closeness(b, x, table, normalize)
        index = b.argmax(close, axis=1, out="index")
        soft = b.matmul(b.softmax(close, axis=1), b.stop_gradient(table), out="soft")
        made = b.embedding(table, index) + (soft - b.stop_gradient(soft)) * warm
        tokens = b.reshape(index, shape=(batch, count), out="tokens")
        return tokens, b.reshape(made, shape=(batch, count, latent), out="rows")

    return softened


@module_class("Clustering", x="B L C")
def clustered(b: Builder, x: Var) -> Var:
    """Labels [B, L] of the last stage of vectors x, by merging the nearest (NVG, algorithm 1).

    In each stage the two nearest clusters that are left become one, until none is left; its vector is their mean.
    """
    count = int(x.shape[1])
    pairs: list[tuple[Var, Var]] = []
    while count > 1:
        first, second = b.sub(f"pairing.{len(pairs)}", _paired, x, out="first second")
        pairs.append((first, second))
        x = b.mul(b.add(rows(b, x, first, "x"), rows(b, x, second, "x")), 0.5, out="x")
        count //= 2
    labels = b.full(x, shape=(1,), value=0, dtype="i64", out="labels")
    for first, second in reversed(pairs):
        twice = b.op("mul", labels, 2, out="twice")
        children = b.concat(first, second, axis=1, out="children")
        values = b.concat(twice, b.op("add", twice, 1), axis=1, out="values")
        labels = b.take_along(values, b.argsort(children), axis=1, out="labels")
    return labels


@module_class("Pairing", x="B N C")
def _paired(b: Builder, x: Var) -> tuple[Var, Var]:
    """Pairs of vectors x [B, N, C], each of the two nearest that are left: their numbers, [B, N / 2] each."""
    count = x.shape[1]
    square = b.sum(x * x, axes=(2,), keepdims=True, out="square")
    products = b.matmul(x, b.transpose(x, perm=(0, 2, 1)), out="products")
    distance = square + b.transpose(square, perm=(0, 2, 1)) - products * 2.0
    index = b.arange(count)
    again = b.less_equal(index, b.reshape(index, shape=(count, 1)), out="again")  # each pair is counted once
    distance = b.where(again, b.scalar(TAKEN, distance), distance, out="distance")

    def body(b: Builder, i: Var, fixed: Any, state: tuple[Var, ...], tables: Any) -> Any:
        (distance,) = state
        batch = distance.shape[0]
        flat = b.reshape(distance, shape=(batch, count * count), out="flat")
        best = b.argmax(b.neg(flat), axis=1, out="best")
        first = b.div(best, count, out="first")
        second = b.op("sub", best, first * count, out="second")
        index = b.arange(count)
        taken = b.logical_or(
            b.equal(b.reshape(first, shape=(batch, 1)), index),
            b.equal(b.reshape(second, shape=(batch, 1)), index),
            out="taken",
        )
        gone = b.logical_or(
            b.reshape(taken, shape=(batch, count, 1)), b.reshape(taken, shape=(batch, 1, count)), out="gone"
        )
        return (b.where(gone, b.scalar(TAKEN, distance), distance, out="distance"),), (first, second)

    _, first, second = b.loop("pair", count // 2, body, carried=[distance])
    return b.transpose(first, perm=(1, 0), out="first"), b.transpose(second, perm=(1, 0), out="second")


def structure(b: Builder, labels: Var, stages: int, stage: Var) -> Var:
    """f32[B, L, K]: the embedding of the clusters i64[B, L] of stage K at `stage` i64[B] (section A.3).

    Channel j is twice the bit of stage j + 1, 1 if that comes after `stage`.
    """
    powers = b.constant(2 ** np.arange(stages - 1, -1, -1), out="powers")
    whole = b.div(b.reshape(labels, shape=(*labels.shape, 1)), powers, out="whole")
    bit = b.op("sub", whole, b.div(whole, 2) * 2, out="bit")
    known = b.less(b.arange(stages), b.reshape(stage, shape=(stage.shape[0], 1, 1)), out="known")
    return b.where(known, b.cast(bit * 2, to="f32"), 1.0, out="structure")


def halves(b: Builder, parents: Var, score: Var, clusters: int) -> Var:
    """i64[B, L]: labels of twice as many clusters, that half of each of the `clusters` of `parents` with the larger
    score f32[B, L] the second."""
    positions = int(parents.shape[1])
    size = positions // clusters
    # By score, then by cluster. A single key for both would leave few bits for the score.
    order = b.argsort(score, out="order")
    key = b.add(b.op("mul", b.take_along(parents, order, axis=1), positions), b.arange(positions), out="key")
    place = b.take_along(order, b.argsort(key), axis=1, out="place")
    rank = b.argsort(place, out="rank")
    second = b.less(size // 2 - 1, b.op("sub", rank, b.div(rank, size) * size), out="second")
    return b.add(b.op("mul", parents, 2), b.cast(second, to="i64"), out="labels")
