"""Attention whose queries, keys and values depend on the condition.

Symbols: B batch, T tokens of a square of side G (`grid`), H heads, E size of the condition.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from latentc.components.blocks.mixers.attention import Attention, Call
from latentc.components.decoding import Given
from latentc.components.parts import condition_of, dense, square_side, whole_sequences
from latentc.ir.builder import Builder, Var, f32


class TimeAttention(Attention):
    """Time-dependent self-attention: a linear map of the condition is added to queries, keys and values.

    DiffiT, Hatamizadeh et al. 2024, arXiv:2312.02139, equations 3 to 8; with a learned relative position bias per head
    and offset of rows and columns, for a square of tokens (Swin Transformer, Liu et al. 2021).
    """

    kind: Literal["time_attention"]  # type: ignore[assignment]
    CLASS: ClassVar[tuple[str, str]] = (
        "ConditionedAttention",
        "Multi-head self-attention, whose queries, keys and values depend on the condition c [B, E] too",
    )
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "time_attention", "heads": 2}

    @property
    def needs(self) -> tuple[str, ...]:
        return ("grid",)

    def further(self, given: Given) -> tuple[Var, ...]:
        return (condition_of(self, given),)

    def joint(self, call: Call, x: Var, size: Any, bias: bool) -> Var:
        b, qkv = call.b, super().joint(call, x, size, bias)
        added = dense(b, "qkv_condition", call.more[0], size, True, call.init, out="added")
        return b.add(qkv, b.reshape(added, shape=(x.shape[0], 1, size), out="added"), out="qkv")

    def mask(self, call: Call, q: Var, k: Var) -> Var | None:
        whole_sequences(self, call.given)
        return relative_bias(call.b, call.heads, square_side(self, q.shape[2], call.sizes["grid"]), q.shape[2])


def relative_bias(b: Builder, heads: int, grid: int, tokens: int) -> Var:
    """f32[1, H, T, T] for a square of tokens of side `grid`: a row of the table per offset of rows and columns."""
    span = 2 * grid - 1
    table = b.param("relative_position_bias_table", f32(span**2, heads), "normal", std=0.02)
    steps = b.arange(grid, out="steps")
    offset = b.reshape(steps, shape=(grid, 1)) - b.reshape(steps, shape=(1, grid))
    offset = b.op("add", offset, grid - 1, out="offset")
    rows = b.op("mul", b.reshape(offset, shape=(grid, 1, grid, 1)), span, out="rows")
    index = b.op("add", rows, b.reshape(offset, shape=(1, grid, 1, grid)), out="index")
    bias = b.embedding(table, b.reshape(index, shape=(tokens, tokens)), out="bias")
    return b.reshape(b.transpose(bias, perm=(2, 0, 1)), shape=(1, heads, tokens, tokens), out="bias")
