"""Shared by networks made of stages: blocks at several resolutions and widths.

Symbols: B batch, D width, T tokens of a square.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Annotated, Any

from pydantic import Field

from latentc.components import Index, Multiplier
from latentc.components.backbone import Backbone
from latentc.components.blocks.block import Block
from latentc.components.networks._levels import scaled, whole
from latentc.components.parts import Problem, Spec, Weights, dense
from latentc.ir.builder import BlockBody, Builder, Var, items, module_class

Heads = Annotated[int, Field(gt=0, le=1_024)]


class Staged(Backbone):
    """Stages of transformer blocks. `multipliers`, `depths` and the like have one entry per stage."""

    width: int = Field(gt=0, le=65_536, description="base channels, multiplied by `multipliers`")
    multipliers: tuple[Multiplier, ...] = Field(
        min_length=1,
        max_length=31,
        description="channels of each stage as a multiple of `width`, in the order of the path",
    )
    depths: tuple[Index, ...] = Field(min_length=1, max_length=31, description="blocks of each stage")
    heads: tuple[Heads, ...] | None = Field(
        None, min_length=1, max_length=31, description="heads of the mixer in each stage; null: as set in the mixer"
    )
    block: Block = Field(description="block repeated in the stages")
    weights: Weights = Field("xavier", description="initialisation of linear layers and convolutions")

    @property
    def stages(self) -> int:
        return len(self.multipliers)

    def level(self, stage: int) -> int:
        """How often the resolution has been halved at a stage."""
        return stage

    def stage(self, stage: int) -> str:
        """The list of the blocks of a stage."""
        return f"stage_{stage}"

    def depth(self, stage: int) -> str:
        """The argument of the emitted class that is the number of blocks of a stage."""
        return f"{self.stage(stage).replace('.', '_')}_depth"

    def features(self, width: Any, stage: int) -> Any:
        """Channels of a stage."""
        return scaled(width, self.multipliers[stage])

    def per_stage(self) -> dict[str, int]:
        """The fields with an entry per stage: name and number of entries."""
        heads = {} if self.heads is None else {"heads": len(self.heads)}
        return {"depths": len(self.depths), **heads}

    def problems_of_stages(self, spec: Spec, side: int) -> Iterator[Problem]:
        """Entries that are too few or too many, and blocks that do not fit; `side` is that of the first stage."""
        for name, count in self.per_stage().items():
            if count != self.stages:
                message = f"`{name}` has {count} entries, but `multipliers` has {self.stages}"
                yield Problem((name,), message, "give one for each stage")
                return
        for stage, multiplier in enumerate(self.multipliers):
            width, level = whole(self.width, multiplier), self.level(stage)
            if not width:
                message = f"{multiplier} * {self.width} channels is not a positive integer"
                yield Problem(("multipliers", stage), message)
            elif side % 2**level:
                mend = f"use fewer stages, or a side that is a multiple of {2**level}"
                yield Problem(("multipliers",), f"a side of {side} cannot be halved {level} times", mend)
                return
            elif self.depths[stage]:
                yield from self._problems_of_block(stage, width, side // 2**level)

    def _problems_of_block(self, stage: int, width: int, grid: int) -> Iterator[Problem]:
        heads = self.heads[stage] if self.heads else self.block.parts()[0].head_count
        for problem in self.block.problems_of_width(width, grid):
            if problem.path != ("width",):
                yield problem
        if width % heads:
            yield Problem(("multipliers", stage), f"{heads} heads do not divide the {width} channels of stage {stage}")

    def depth_sizes(self) -> dict[str, int]:
        """The number of blocks of each stage, as arguments of the emitted class."""
        return {self.depth(i): depth for i, depth in enumerate(self.depths)}

    def run(
        self,
        b: Builder,
        block: BlockBody,
        x: Var,
        operands: tuple[Var, ...],
        stage: int,
        grid: Any,
        sizes: Any,
        rates: Sequence[tuple[Var, ...]] | None = None,
    ) -> Var:
        """The blocks of a stage, on tokens x of a square of side `grid`; `rates`: the operands of each after x."""
        dim = x.shape[2]
        own: Mapping[str, Any] = {**self.block.static(dim), "grid": grid}
        if self.heads is not None and "heads" in own:
            own = {**own, "heads": self.heads[stage]}
        own = self.block.own(dim, own)
        named = items(self.stage(stage), sizes[self.depth(stage)])
        for item, rate in zip(named, rates or [()] * len(named), strict=True):
            x = b.sub(item, block, x, *rate, *operands, dim=dim, out="x", **own)
        return x


def long_skips(
    b: Builder, block: BlockBody, x: Var, operands: tuple[Var, ...], half: int, dim: Any, sizes: Mapping[str, Any]
) -> list[Var]:
    """U-ViT's blocks: those of the second half also take what their counterpart in the first returned.

    Returns x and the output of each block, in order.
    """
    skips, every = [], [x]
    for name in items("in_blocks", half):
        x = b.sub(name, block, x, *operands, dim=dim, **sizes)
        skips.append(x)
    every += [*skips, b.sub("mid_block", block, x, *operands, dim=dim, **sizes)]
    with_skip = skip_block(block)
    for name in items("out_blocks", half):
        every.append(b.sub(name, with_skip, every[-1], skips.pop(), *operands, dim=dim, **sizes))
    return every


@cache
def skip_block(block: BlockBody) -> BlockBody:
    """The same method of a block that takes the output of its counterpart in the first half after x."""

    @module_class("SkipBlock" if block.cls == "TransformerBlock" else f"Skip{block.cls}", block.method)
    def forward(b: Builder, x: Var, skip: Var, *operands: Var, dim: int, **static: Any) -> Any:
        """A transformer block of x joined with the output of its counterpart in the first half."""
        x = dense(b, "skip_linear", b.concat(x, skip, axis=2, out="x"), dim, True, "normal", out="x")
        return block.body(b, x, *operands, dim=dim, **static)

    return forward


__all__ = ["Heads", "Staged", "long_skips", "scaled", "skip_block", "whole"]
