"""Several beginnings of each sample side by side, of which the best go on.

Symbols: B batch, K beams of each sample; rows [B K, ...] hold the beams of a sample one after the other.
"""

from __future__ import annotations

from latentc.ir.builder import Builder, Var
from latentc.ir.types import B


def repeated(b: Builder, x: Var, beams: int, out: str = "cond") -> Var:
    """[B K, ...]: the row of each sample of x [B, ...], once per beam."""
    rest = x.shape[1:]
    wide = b.broadcast_to(b.reshape(x, shape=(B, 1, *rest)), x, shape=(B, beams, *rest))
    return b.reshape(wide, shape=(B * beams, *rest), out=out)


def of_beams(b: Builder, x: Var, beam: Var, beams: int, out: str = "kept") -> Var:
    """[B N, ...]: of the beams of x [B K, ...], those of the numbers `beam` i64[B, N]."""
    rest, count = x.shape[1:], int(beam.shape[1])
    x = b.reshape(x, shape=(B, beams, *rest))
    index = b.reshape(beam, shape=(B, count, *[1] * len(rest)))
    index = b.broadcast_to(index, beam, shape=(B, count, *rest), out="index")
    rows = B * count if count > 1 else B
    return b.reshape(b.take_along(x, index, axis=1), shape=(rows, *rest), out=out)
