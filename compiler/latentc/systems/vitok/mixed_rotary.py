"""Attention whose queries and keys rotate by row and column together, at learned frequencies.

Symbols: B batch, H heads, T tokens of a square of side G (`grid`), d channels of a head.
"""

from __future__ import annotations

from functools import cache
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.blocks.mixers.attention import Attention, Call, one_key_per_query
from latentc.components.parts import square_side
from latentc.ir.builder import BlockBody, Builder, Var, f32, module_class


class MixedRotaryAttention(Attention):
    """Attention whose queries and keys rotate by row and column in a square of tokens at learned frequencies per head.

    RoPE-Mixed, Heo et al. 2024, arXiv:2403.13298.
    """

    kind: Literal["mixed_rotary_attention"]  # type: ignore[assignment]
    base: float = Field(10_000.0, gt=1, le=1e12, description="frequencies start between 1 and 1 over this")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "mixed_rotary_attention", "heads": 2}

    @property
    def needs(self) -> tuple[str, ...]:
        return ("grid", *super().needs)

    def heads_of(self, call: Call, x: Var) -> tuple[Var, Var, Var]:
        one_key_per_query(self, call)
        q, k, v = super().heads_of(call, x)
        q, k = mixed_rotary(call.b, q, k, square_side(self, x.shape[1], call.sizes["grid"]), self.base)
        return q, k, v


def mixed_rotary(b: Builder, q: Var, k: Var, grid: Any, base: float) -> tuple[Var, Var]:
    """q and k f32[B, H, T, d] rotated (RoPE-Mixed, Heo et al. 2024, arXiv:2403.13298).

    Pairs of a head rotate with column * f_x + row * f_y. At first the (f_x, f_y) of a head have two directions at right
    angles, the same drawn angle apart from the axes, and lengths from 1 down to about 1 / `base`.
    """
    return b.sub("rotate", _forward(base), q, k, heads=q.shape[1], head_dim=q.shape[3], grid=grid, out="q k")


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
            return b.reshape(b.rotary(x, cos, sin, interleaved=True), shape=q.shape, out=name)

        return turned(q, "q"), turned(k, "k")

    return forward
