"""Blocks of a transformer that remember their keys and values, and blocks that recall them for a few tokens (ReCAP).

Symbols: B batch, H heads, S remembered tokens, N tokens at hand, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from latentc.components.blocks.conditions.in_context import InContext
from latentc.components.decoding import BlockForm
from latentc.components.networks._stages import skip_block
from latentc.components.parts import FeedForward, Mixer, Norm
from latentc.ir.builder import BlockBody, Builder, Var

Parts = tuple[Mixer, FeedForward, Norm, str]
"""What a block is made of, and how its linear layers start."""


class Remembering:
    """Blocks on all tokens; `caches` collects the keys and values of each, f32[B, H, N, D / H]."""

    def __init__(self) -> None:
        self.caches: list[Var] = []

    def body(self, condition: InContext, parts: Parts) -> BlockBody:
        return condition.block(*parts, BlockForm("begin", plain=True))

    def run(self, b: Builder, name: str, body: BlockBody, operands: Sequence[Var], dim: Any, sizes: Any) -> Var:
        x, keys, values = b.sub(name, body, *operands, out="x keys values", dim=dim, **sizes)
        self.caches += [keys, values]
        return x  # type: ignore[no-any-return]


class Recalling:
    """Blocks on a few tokens, which see themselves and those `caches` where `mask` bool[B, 1, 1, S + N] is true."""

    def __init__(self, caches: Sequence[Var], mask: Var) -> None:
        self.left, self.mask = list(caches), mask

    def body(self, condition: InContext, parts: Parts) -> BlockBody:
        return condition.block(*parts, BlockForm("extend", masked=True, plain=True))

    def run(self, b: Builder, name: str, body: BlockBody, operands: Sequence[Var], dim: Any, sizes: Any) -> Var:
        keys, values, *self.left = self.left
        own = (*operands, keys, values, self.mask)
        x, *_ = b.sub(name, body, *own, out="x keys values", dim=dim, **sizes)
        return x  # type: ignore[no-any-return]


def remembered_blocks(
    b: Builder,
    how: Remembering | Recalling,
    condition: InContext,
    parts: Parts,
    x: Var,
    depth: int,
    skips: bool,
    dim: Any,
    sizes: Mapping[str, Any],
    prefix: str = "blocks",
) -> Var:
    """x [B, N, D] through so many blocks; with `skips` those of a U-ViT, as many before the middle one as behind it."""
    body, kept = how.body(condition, parts), list[Var]()
    if not skips:
        for i in range(int(depth)):
            x = how.run(b, f"{prefix}.{i}", body, (x,), dim, sizes)
        return x
    half = int(depth) // 2
    for i in range(half):
        x = how.run(b, f"in_blocks.{i}", body, (x,), dim, sizes)
        kept.append(x)
    x = how.run(b, "mid_block", body, (x,), dim, sizes)
    for i in range(half):
        x = how.run(b, f"out_blocks.{i}", skip_block(body), (x, kept.pop()), dim, sizes)
    return x


__all__ = ["Recalling", "Remembering", "remembered_blocks"]
