"""Kernels of the distance between tokens.

Symbols: B batch, H heads, T tokens, T_q queries.
"""

from __future__ import annotations

from abc import abstractmethod

from latentc.components.parts import Part
from latentc.ir.builder import Builder, Var, f32

LEAST = 1e-2
"""Least value of parameters that must be positive, as in the authors' code."""


class ScoreKernel(Part):
    """A kernel of the distance between tokens, which changes the scores of attention."""

    @abstractmethod
    def terms(self, b: Builder, distance: Var, heads: int) -> tuple[Var | None, Var | None]:
        """Factor and summand of the scores, f32[1, H, T_q, T] each, or None, of distances f32[1, T_q, T] (>= 0)."""

    @property
    def multiplies(self) -> bool:
        """Whether there is a factor."""
        return False

    def on(self, b: Builder, scores: Var, distance: Var) -> Var:
        """Scores f32[B, H, T_q, T] with the kernel of the distances."""
        factor, summand = self.terms(b, distance, scores.shape[1])
        scores = scores if factor is None else b.mul(scores, factor, out="scores")
        return scores if summand is None else b.add(scores, summand, out="scores")


def positive(b: Builder, name: str, heads: int, high: float) -> Var:
    """A parameter f32[H, 1, 1] that starts uniformly between 0 and `high`."""
    return b.param(name, f32(heads, 1, 1), "uniform_between", low=0.0, high=high)


def distances(b: Builder, tokens: int, causal: bool) -> Var:
    """f32[1, T, T]: how far token j is from token i; 0 for those after i if only those before it are seen."""
    place = b.cast(b.arange(tokens), to="f32", out="place")
    apart = b.reshape(place, shape=(1, tokens, 1)) - b.reshape(place, shape=(1, 1, tokens))
    return b.maximum(apart, 0.0, out="distance") if causal else b.abs(apart, out="distance")


def distances_from(b: Builder, position: Var, tokens: int) -> Var:
    """f32[1, 1, T]: how far the first `tokens` tokens are before the one at `position` i64[]; 0 for those after it."""
    place = b.cast(b.arange(tokens), to="f32", out="place")
    apart = b.cast(position, to="f32") - place
    return b.reshape(b.maximum(apart, 0.0), shape=(1, 1, tokens), out="distance")
