"""Attention with a learned bias per offset of rows and columns, also among some tokens of the square.

Symbols: B batch, T tokens of a square of side G (`grid`), K those kept, D width, H heads.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, ClassVar, Literal

from latentc.components.blocks.mixers.attention import Attention, Call
from latentc.components.decoding import UNSEEN, Given
from latentc.components.parts import Problem, Spec, square_side, whole_sequences
from latentc.ir.builder import BlockBody, Builder, Var, f32


class RelativeAttention(Attention):
    """Attention whose scores have a learned bias per head and offset of rows and columns (BEiT, Bao et al. 2021,
    arXiv:2106.08254), for a square of tokens.
    """

    kind: Literal["relative_attention"]  # type: ignore[assignment]
    CLASS: ClassVar[tuple[str, str]] = (
        "RelativeAttention",
        "Multi-head self-attention with a learned bias per head and offset of rows and columns",
    )
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "relative_attention", "heads": 2}

    @property
    def needs(self) -> tuple[str, ...]:
        return ("grid",)

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from super().problems(spec)
        if self.causal:
            yield Problem(("causal",), "tokens of a square have no order", "leave it out")

    def apply(self, b: Builder, name: str, x: Var, init: str, given: Given, **static: Any) -> tuple[Var, ...]:
        if "kept" in given.values:
            return (b.sub(name, _kept(self, init), x, given.values["kept"], given.values["seen"], **static),)
        whole_sequences(self, given)
        return super().apply(b, name, x, init, given, **static)

    def mask(self, call: Call, q: Var, k: Var) -> Var | None:
        b, heads, given = call.b, call.heads, call.given.values
        kept = given.get("kept")
        grid = call.sizes["grid"] if kept is not None else square_side(self, q.shape[2], call.sizes["grid"])
        span = 2 * grid - 1
        # The last three rows are for a class token, which BEiT has and this network does not.
        table = b.param("relative_position_bias_table", f32(span**2 + 3, heads), "normal", std=0.02)
        if kept is None:
            index = b.reshape(_offsets(b, grid), shape=(1, q.shape[2], q.shape[2]), out="index")
        else:
            index = _offsets_of(b, kept, grid)
        bias = b.transpose(b.embedding(table, index, out="bias"), perm=(0, 3, 1, 2), out="bias")
        if kept is None:
            return bias
        return b.where(given["seen"], bias, b.scalar(UNSEEN, bias), out="bias")


def _offsets(b: Builder, grid: Any) -> Var:
    """i64[G, G, G, G]: the row of the table for each pair of a query's row and column and a key's."""
    steps = b.arange(grid, out="steps")
    offset = b.reshape(steps, shape=(grid, 1)) - b.reshape(steps, shape=(1, grid))
    offset = b.op("add", offset, grid - 1, out="offset")
    rows = b.op("mul", b.reshape(offset, shape=(grid, 1, grid, 1)), 2 * grid - 1, out="rows")
    return b.op("add", rows, b.reshape(offset, shape=(1, grid, 1, grid)), out="index")


def _offsets_of(b: Builder, kept: Var, grid: Any) -> Var:
    """i64[B, K, K]: the row of the table for each pair of the tokens `kept` i64[B, K], numbered row by row."""
    batch, count = kept.shape
    index = b.reshape(_offsets(b, grid), shape=(grid**2, grid**2), out="index")
    index = b.take(index, kept, axis=0, out="index")
    columns = b.broadcast_to(b.reshape(kept, shape=(batch, 1, count)), kept, shape=(batch, count, count))
    return b.take_along(index, columns, axis=2, out="index")


@cache
def _kept(config: RelativeAttention, init: str) -> BlockBody:
    def attention(b: Builder, x: Var, kept: Var, seen: Var, *, dim: int, heads: int, grid: int, **sizes: Any) -> Var:
        """Attention among tokens x [B, K, D] at the places `kept` [B, K] of the square, to those that `seen` marks."""
        given = Given(values={"kept": kept, "seen": seen})
        call = Call(b, init, given, dim, heads, sizes.pop("kv_heads", None), {"grid": grid, **sizes})
        return config.attended(call, x)[0]

    return BlockBody(attention, config.CLASS[0], "forward_kept", {"x": "B K D", "kept": "B K"}, ("x", "kept", "seen"))
