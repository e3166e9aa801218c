"""Densities of normal distributions. Symbols: B batch."""

from __future__ import annotations

from math import log, pi

from latentc.ir.builder import Builder, Var
from latentc.ir.types import product


def gaussian_log_prob(b: Builder, x: Var, mean: Var, log_std: Var) -> Var:
    """f32[B]: log-density in nats of x [B, ...] under a normal distribution with this mean and log_std f32[B]."""
    size = float(product(x.shape[1:]))  # type: ignore[arg-type]
    column = b.reshape(log_std, shape=(x.shape[0], *(1 for _ in x.shape[1:])), out="column")
    residual = b.mul(b.op("sub", x, mean), b.exp(b.neg(column)), out="residual")
    squares = b.sum(residual * residual, axes=tuple(range(1, x.type.rank)), keepdims=False, out="squares")
    return b.add(b.op("sub", squares * -0.5, log_std * size), -0.5 * log(2 * pi) * size, out="log_prob")  # type: ignore[no-any-return]
