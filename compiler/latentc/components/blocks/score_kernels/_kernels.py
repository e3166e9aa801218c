"""What kernels of the distance between tokens share."""

from __future__ import annotations

from latentc.ir.builder import Builder, Var, f32

LEAST = 1e-2
"""Least value of parameters that must be positive, as in the authors' code."""


def positive(b: Builder, name: str, heads: int, high: float) -> Var:
    """A parameter f32[H, 1, 1] that starts uniformly between 0 and `high`."""
    return b.param(name, f32(heads, 1, 1), "uniform_between", low=0.0, high=high)


def distances(b: Builder, tokens: int, causal: bool) -> Var:
    """f32[1, T, T]: how far token j is from token i; 0 for those after i if only those before it are seen."""
    place = b.cast(b.arange(tokens), to="f32", out="place")
    apart = b.reshape(place, shape=(1, tokens, 1)) - b.reshape(place, shape=(1, 1, tokens))
    return b.maximum(apart, 0.0, out="distance") if causal else b.abs(apart, out="distance")  # type: ignore[no-any-return]


def distances_from(b: Builder, position: Var, tokens: int) -> Var:
    """f32[1, 1, T]: how far the first `tokens` tokens are before the one at `position` i64[]; 0 for those after it."""
    place = b.cast(b.arange(tokens), to="f32", out="place")
    apart = b.cast(position, to="f32") - place
    return b.reshape(b.maximum(apart, 0.0), shape=(1, 1, tokens), out="distance")  # type: ignore[no-any-return]
