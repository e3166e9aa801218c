"""Residuals of latents at growing resolutions, each a map of codes: VAR's multi-scale quantisation.

Symbols: B batch, K scales, n the side of a scale's map, Z channels of the latents, h the side of the latents.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from latentc.components import layers
from latentc.components.blocks.bottlenecks.codebook import unit
from latentc.components.sums import summed
from latentc.ir.builder import BlockBody, Builder, Var, f32, module_class


@dataclass(frozen=True)
class Scales:
    """`sides` n of the maps, from small to large, the last h.

    A map adds to the latents `kept` times itself and `share` times a convolution of it; share 0: itself.
    There are `convolutions` of these, which neighbouring scales share; 0: one per scale.
    """

    sides: tuple[int, ...]
    codes: Any
    channels: Any
    normalize: bool
    convolutions: int
    share: float

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens of each scale."""
        return tuple(side**2 for side in self.sides)

    @property
    def kept(self) -> float:
        """Factor of a map beside its convolution."""
        return 1.0 - self.share

    def convolution(self, k: int) -> int:
        """The convolution of scale k: the one whose place between 0 and 1 is nearest to that of the scale."""
        count = self.convolutions or len(self.sides)
        ends = 1 / 3 / count if count == 4 else 1 / 2 / count
        places = np.linspace(ends, 1 - ends, count)
        return int(np.argmin(np.abs(places - k / max(len(self.sides) - 1, 1))))

    def names(self, count: int) -> dict[str, Any]:
        """Which convolutions the first `count` scales have, as name maps need to know it.

        `smoothed` lists them: one that all scales share (`joint`), some of which each is of several (`shared`), or one
        per scale (`unshared`), of which there are so many. `scales` is their number.
        """
        smoothed = tuple(sorted({self.convolution(k) for k in range(count)})) if self.share else ()
        kind = {0: "unshared", 1: "joint"}.get(self.convolutions, "shared")
        return {"scales": count, "joint": 0, "shared": 0, "unshared": 0, kind: len(smoothed), "smoothed": smoothed}

    def nearest(self, b: Builder, rest: Var, k: int) -> Var:
        """i64[B, n n]: the codes of scale k that are nearest to the residual f32[B, Z, h, h]."""
        if k < len(self.sides) - 1:
            rest = b.resize(rest, size=self.sides[k], mode="area", out="x")
        body = codebook_nearest(self.normalize)
        return b.sub("codebook", body, rest, out=f"tokens_{k}", codes=self.codes, latent=self.channels)

    def added(self, b: Builder, tokens: Var, k: int) -> Var:
        """f32[B, Z, h, h]: what codes i64[B, n n] of scale k, or mixtures f32[B, n n, K] of them, add to latents."""
        side = self.sides[-1]
        n = self.sides[k]
        rows = codebook_rows if tokens.type.dtype == "i64" else codebook_mixtures
        h = b.sub("codebook", rows, tokens, out="h", codes=self.codes, latent=self.channels)
        h = b.transpose(b.reshape(h, shape=(h.shape[0], n, n, self.channels)), perm=(0, 3, 1, 2), out="h")
        if k < len(self.sides) - 1:
            h = b.resize(h, size=side, mode="bicubic", out="h")
        if self.share:
            h = b.sub(f"smooth.{self.convolution(k)}", smoothed(self.kept, self.share), h, latent=self.channels)
        return h

    def quantized(self, b: Builder, latents: Var, each: Callable[[Var], None] | None = None) -> tuple[list[Var], Var]:
        """The codes of every scale i64[B, n n], and the latents f32[B, Z, h, h] that they stand for.

        `each` is called with these latents after every scale.
        """
        tokens: list[Var] = []
        rest, found = b.stop_gradient(latents, out="rest"), None
        for k in range(len(self.sides)):
            tokens.append(self.nearest(b, rest, k))
            added = self.added(b, tokens[-1], k)
            found = added if found is None else b.add(found, added, out="found")
            rest = b.op("sub", rest, b.stop_gradient(added), out="rest")
            if each is not None:
                each(found)
        assert found is not None
        return tokens, found

    def regularized(self, b: Builder, latents: Var, commitment: float) -> tuple[Var, Var]:
        """The latents of training, through which gradients pass as if nothing were chosen, and the penalty f32[B].

        It is the mean over the scales of the squared distances between the latents so far and the encoder's output, of
        which the pull on the latter counts `commitment` times as much.
        """
        terms: list[Var] = []
        fixed = b.stop_gradient(latents, out="fixed")

        def compare(found: Var) -> None:
            pull, commit = found - fixed, latents - b.stop_gradient(found)
            terms.append(b.mean(pull * pull + commit * commit * commitment, axes=(1, 2, 3), keepdims=False))

        _, found = self.quantized(b, latents, compare)
        penalty = summed(b, "penalty", terms)
        return latents + b.stop_gradient(found - latents), b.mul(penalty, 1 / len(terms), out="penalty")

    def split(self, b: Builder, tokens: Var) -> tuple[Var, ...]:
        """The codes of each scale i64[B, n n] out of those of all i64[B, L]."""
        names = " ".join(f"tokens_{k}" for k in range(len(self.sides)))
        return b.split(tokens, axis=1, sizes=self.lengths, out=names)

    def latents(self, b: Builder, tokens: Var) -> Var:
        """f32[B, Z, h, h] of the codes of all scales i64[B, L]."""
        found = None
        for k, part in enumerate(self.split(b, tokens)):
            added = self.added(b, part, k)
            found = added if found is None else b.add(found, added, out="found")
        assert found is not None
        return found

    def next_input(self, b: Builder, latents: Var, k: int) -> Var:
        """f32[B, n n, Z]: the latents so far at the resolution of scale k, row by row."""
        side = self.sides[k]
        x = latents if side == self.sides[-1] else b.resize(latents, size=side, mode="area", out="x")
        x = b.reshape(x, shape=(x.shape[0], self.channels, side**2), out="x")
        return b.transpose(x, perm=(0, 2, 1), out=f"input_{k}")


def codebook_table(b: Builder, codes: Any, latent: Any) -> Var:
    """The codebook f32[codes, latent]."""
    return b.param("weight", f32(codes, latent), "uniform", bound=1 / int(codes))


def closeness(b: Builder, x: Var, table: Var, normalize: bool) -> Var:
    """f32[N, K]: cosines of x f32[N, Z] and rows of the table f32[K, Z], or what falls with their squared distances."""
    if normalize:
        return b.linear(unit(b, x), unit(b, table), out="closeness")
    product = b.linear(x, table) * 2.0
    return b.op("sub", product, b.sum(table * table, axes=(1,), keepdims=False), out="closeness")


@cache
def codebook_nearest(normalize: bool) -> BlockBody:
    @module_class("ScaleCodebook", "nearest", x="B latent N M")
    def nearest(b: Builder, x: Var, *, codes: int, latent: int) -> Var:
        """The row of the codebook that is nearest to each position of x."""
        table, (batch, _, rows, columns) = codebook_table(b, codes, latent), x.shape
        x = b.reshape(b.transpose(x, perm=(0, 2, 3, 1)), shape=(batch * rows * columns, latent), out="x")
        return b.reshape(
            b.argmax(closeness(b, x, table, normalize), axis=1), shape=(batch, rows * columns), out="tokens"
        )

    return nearest


@module_class("ScaleCodebook", tokens="B N")
def codebook_rows(b: Builder, tokens: Var, *, codes: int, latent: int) -> Var:
    """The rows of the codebook that tokens [B, N] name."""
    return b.embedding(codebook_table(b, codes, latent), tokens, out="x")


@module_class("ScaleCodebook", "mixtures", shares="B N codes")
def codebook_mixtures(b: Builder, shares: Var, *, codes: int, latent: int) -> Var:
    """Sums of the rows of the codebook, each times its share."""
    return b.matmul(shares, codebook_table(b, codes, latent), out="x")


@cache
def smoothed(kept: float, share: float) -> BlockBody:
    @module_class("Smoothing", x="B latent H W")
    def mixture(b: Builder, x: Var, *, latent: int) -> Var:
        """A weighted sum of x and a 3 x 3 convolution of it."""
        convolved = layers.conv(b, "conv", x, latent, 3, "linear_default") * share
        return (x if kept == 1.0 else x * kept) + convolved

    return mixture
