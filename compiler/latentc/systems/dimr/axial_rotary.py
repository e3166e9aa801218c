"""Attention whose queries and keys rotate by their place on a square, at learned frequencies.

Symbols: B batch, H heads, T tokens of a square of side G (`grid`), d channels of a head.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any, ClassVar, Literal

from latentc.components.blocks.mixers.attention import Attention, Call, one_key_per_query
from latentc.components.parts import square_side
from latentc.ir.builder import BlockBody, Builder, Var, f32, module_class

LEAST, MOST = math.pi, 5 * math.pi
"""Frequencies at the start, between which their logarithms are evenly spaced."""
SCALE, LARGEST = math.log(10.0), math.log(100.0)
"""Logarithm of the scale of scores, at the start and at most."""


class AxialAttention(Attention):
    """Attention whose queries and keys are normalised to a learned length per head, and rotated by row and column in a
    square of tokens at learned frequencies (HDiT, Crowson et al. 2024).
    """

    kind: Literal["axial_attention"]  # type: ignore[assignment]
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "axial_attention", "heads": 2}

    @property
    def needs(self) -> tuple[str, ...]:
        return ("grid", *super().needs)

    def heads_of(self, call: Call, x: Var) -> tuple[Var, Var, Var]:
        one_key_per_query(self, call, 4)
        q, k, v = super().heads_of(call, x)
        q, k = axial_rotary(call.b, q, k, square_side(self, x.shape[1], call.sizes["grid"]))
        return q, k, v


def axial_rotary(b: Builder, q: Var, k: Var, grid: Any) -> tuple[Var, Var]:
    """q and k f32[B, H, T, d], each head normalised to a learned length and rotated (Crowson et al. 2024, HDiT).

    arXiv:2401.11605. Half of the pairs rotate with the row, half with the column; both run from -1 to 1.
    """
    return b.sub("rotate", _forward(), q, k, heads=q.shape[1], head_dim=q.shape[3], grid=grid, out="q k")


@cache
def _forward() -> BlockBody:
    @module_class("AxialRotary")
    def forward(b: Builder, q: Var, k: Var, *, heads: int, head_dim: int, grid: int) -> tuple[Var, Var]:
        """Queries and keys, normalised to a length that each head learns and rotated by row and column."""
        batch, tokens = q.shape[0], q.shape[2]
        size = f32(heads, head_dim // 4)
        low, high = math.log(LEAST), math.log(MOST)
        rows, columns = (b.param(name, size, "linspace", low=low, high=high) for name in ("rows", "columns"))
        scale = b.exp(b.minimum(b.param("scale", f32(heads), "constant", value=SCALE), LARGEST) * 0.5, out="scale")
        length = b.op("mul", scale, b.op("pow", b.scalar(head_dim, scale), -0.25))
        length = b.reshape(length, shape=(heads, 1, 1), out="length")
        index = b.cast(b.arange(grid), to="f32", out="index")
        place = b.op("sub", (index * 2.0 + 1.0) / b.scalar(grid, index), 1.0, out="place")  # centres of the tokens
        shape = (heads, grid, grid, head_dim // 4)
        down = b.reshape(place, shape=(grid, 1, 1)) * b.reshape(b.exp(rows), shape=(heads, 1, 1, head_dim // 4))
        across = b.reshape(place, shape=(grid, 1)) * b.reshape(b.exp(columns), shape=(heads, 1, 1, head_dim // 4))
        down, across = (
            b.broadcast_to(down, down, shape=shape, out="down"),
            b.broadcast_to(across, across, shape=shape, out="across"),
        )
        angles = b.concat(down, across, axis=3)
        angles = b.reshape(angles, shape=(heads * tokens, head_dim // 2), out="angles")
        cos, sin = b.cos(angles, out="cos"), b.sin(angles, out="sin")

        def turned(x: Var, name: str) -> Var:
            """Heads are rows of one long sequence, as each has angles of its own."""
            x = b.reshape(b.rms_norm(x, eps=1e-6) * length, shape=(batch, 1, heads * tokens, head_dim))
            return b.reshape(b.rotary(x, cos, sin, interleaved=True), shape=q.shape, out=name)

        return turned(q, "q"), turned(k, "k")

    return forward
