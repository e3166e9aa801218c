"""Rotation of queries and keys by row and column together, at learned frequencies.

A file beside axial_rotary.py, whose pairs rotate with a row or a column, at frequencies of one direction each.

Symbols: B batch, H heads, T tokens of a square of side G (`grid`), d channels of a head.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from latentc.ir.builder import BlockBody, Builder, Var, f32, module_class


def mixed_rotary(b: Builder, q: Var, k: Var, grid: Any, base: float) -> tuple[Var, Var]:
    """q and k f32[B, H, T, d] rotated (RoPE-Mixed, Heo et al. 2024, arXiv:2403.13298).

    Pairs of a head rotate with column * f_x + row * f_y. At first the (f_x, f_y) of a head have two directions at right
    angles, the same drawn angle apart from the axes, and lengths from 1 down to about 1 / `base`.
    """
    return b.sub("rotate", _forward(base), q, k, heads=q.shape[1], head_dim=q.shape[3], grid=grid, out="q k")  # type: ignore[no-any-return]


@cache
def _forward(base: float) -> BlockBody:
    @module_class("MixedRotary")
    def forward(b: Builder, q: Var, k: Var, *, heads: int, head_dim: int, grid: int) -> tuple[Var, Var]:
        """Queries and keys rotated by column and row."""
        batch, tokens, half = q.shape[0], q.shape[2], head_dim // 2
        frequencies = b.param("frequencies", f32(2, heads * half), "rotations", heads=heads, base=base)
        frequencies = b.reshape(frequencies, shape=(2, heads, 1, half), out="frequencies")
        x, y = b.split(frequencies, axis=0, sizes=(1, 1), out="x y")
        index = b.cast(b.arange(grid), to="f32", out="index")
        shape = (heads, grid, grid, half)
        across = b.reshape(index, shape=(1, grid, 1)) * b.reshape(x, shape=(heads, 1, 1, half))
        down = b.reshape(index, shape=(grid, 1, 1)) * b.reshape(y, shape=(heads, 1, 1, half))
        angles = b.add(
            b.broadcast_to(across, across, shape=shape, out="across"),
            b.broadcast_to(down, down, shape=shape, out="down"),
        )
        angles = b.reshape(angles, shape=(heads * tokens, half), out="angles")
        cos, sin = b.cos(angles, out="cos"), b.sin(angles, out="sin")

        def turned(x: Var, name: str) -> Var:
            """Heads are rows of one long sequence, as each has angles of its own."""
            x = b.reshape(x, shape=(batch, 1, heads * tokens, head_dim))
            return b.reshape(b.rotary(x, cos, sin, interleaved=True), shape=q.shape, out=name)  # type: ignore[no-any-return]

        return turned(q, "q"), turned(k, "k")

    return forward


__all__ = ["mixed_rotary"]
