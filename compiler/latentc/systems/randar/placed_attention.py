"""Attention whose rotary positions differ from sample to sample.

Symbols: B batch, N tokens at once, H heads, d channels of a head.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.blocks.mixers.attention import Attention, Call
from latentc.ir.builder import Builder, Var


class PlacedAttention(Attention):
    """`attention` with rotary tables f32[B, N, d / 2] of every sample, whose tokens are in orders of their own."""

    kind: Literal["placed_attention"]  # type: ignore[assignment]
    rotary_halves: Literal[False] = Field(False, description="rotary positions pair neighbouring channels")
    CLASS: ClassVar[tuple[str, str]] = ("PlacedAttention", "Multi-head self-attention with positions per sample")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "placed_attention", "heads": 2}

    def heads_of(self, call: Call, x: Var) -> tuple[Var, Var, Var]:
        tables = call.given.rotary
        if not tables or tables[0].type.rank == 2:  # those of a network with the same places in all samples
            return super().heads_of(call, x)
        q, k, v = super().heads_of(replace(call, given=replace(call.given, rotary=())), x)
        return rotated(call.b, q, *tables), rotated(call.b, k, *tables), v


def rotated(b: Builder, x: Var, cos: Var, sin: Var) -> Var:
    """x f32[B, H, N, d], its pairs of neighbouring channels rotated by tables f32[B, N, d / 2] of each sample."""
    batch, heads, own, size = x.shape
    half, count = size // 2, cos.shape[1]  # one token may be rotated by many tables
    cos, sin = (b.reshape(t, shape=(t.shape[0], 1, count, half), out=t.value.name) for t in (cos, sin))
    pairs = b.reshape(x, shape=(batch, heads, own, half, 2))
    even, odd = (b.reshape(t, shape=(batch, heads, own, half)) for t in b.split(pairs, axis=4, sizes=(1, 1)))
    turned = (even * cos - odd * sin, odd * cos + even * sin)
    columns = [b.reshape(t, shape=(batch, heads, count, half, 1)) for t in turned]
    return b.reshape(b.concat(*columns, axis=4), shape=(batch, heads, count, size), out=x.value.name)
