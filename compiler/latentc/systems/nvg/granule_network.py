"""The base class of NVG's two transformers, and what their methods share.

Symbols: B batch, T tokens, L positions, K stages, Z channels of the latents, D width, d channels of a head.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

from pydantic import Field

from latentc.components.backbone import Backbone
from latentc.components.blocks.stochastic_depth import DropPath, dropping, growing_rates
from latentc.components.condition import Entry, Form, embedded_sum
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import Builder, Var, f32, items
from latentc.systems.nvg.granule_blocks import parallel_block

SMALL = {"width": 32, "depth": 1, "heads": 2, "side": 4, "latent": 4, "kind_channels": 4, "drop_path": 0.1}
"""Sizes of the examples."""


class GranuleNetwork(Backbone):
    """Options of NVG's two networks, and the requirements that they share."""

    width: int = Field(gt=0, le=65_536, description="channels of a token (D)")
    depth: int = Field(gt=0, le=512, description="number of blocks")
    heads: int = Field(gt=0, le=1_024, description="attention heads; must divide the width")
    ratio: int = Field(4, gt=0, le=64, description="hidden width of the MLPs as a multiple of the width")
    side: int = Field(gt=1, le=256, description="side of the square of latents, a power of 2")
    latent: int = Field(gt=0, le=65_536, description="channels of the latents (Z)")
    kind_channels: int = Field(
        8, gt=0, le=1_024, description="channels per attention head used to distinguish token kinds, even"
    )
    drop_path: DropPath = Field(
        0.0,
        description="stochastic depth in training: probability that a sample skips a branch of the last block, "
        "increasing from 0 over the blocks",
    )
    TAKES: ClassVar[tuple[Form, ...]] = ("vector",)

    @property
    def fixed(self) -> tuple[str, ...]:
        return ("stages", "width", "heads")

    @property
    def stages(self) -> int:
        """K."""
        return (self.side**2).bit_length() - 1

    @property
    def channels(self) -> tuple[int, int]:
        """Channels of a head for the kind of a token, and for its row or column."""
        return self.kind_channels, (self.width // self.heads - self.kind_channels - 2 * self.stages) // 2

    def problems(self, spec: Spec) -> Iterator[Problem]:
        if spec.data.tokens is None:
            yield Problem((), f"a {self.kind} takes tokens, but the data has {spec.data.words}")
        if self.side & (self.side - 1):
            yield Problem(
                ("side",), f"a square of side {self.side} cannot be halved down to one position", "use 4, 8, 16"
            )
        of_kind, of_space = self.channels
        if self.width % self.heads:
            yield Problem(("width",), f"{self.heads} heads do not divide the width of {self.width}")
        elif (
            of_kind % 2
            or of_space < 2
            or of_space % 2
            or of_kind + 2 * (self.stages + of_space) != (self.width // self.heads)
        ):
            message = (
                f"of the {self.width // self.heads} channels of a head, {of_kind} (an even number) must be "
                f"left for the kind, {2 * self.stages} for the structure, and equal, even numbers for row "
                "and column"
            )
            yield Problem(("kind_channels",), message, "change `width`, `heads` or `kind_channels`")
        if not self.takes(spec):
            yield Problem((), f"a {self.kind} needs a condition", "add `conditioning.class: {kind: label}`")
        yield from self.problems_of_conditions(spec)

    def sizes(self, spec: Spec) -> dict[str, Any]:
        """Static arguments that both have."""
        sizes = {"latent": self.latent, "width": self.width, "depth": self.depth, "heads": self.heads}
        return {**sizes, "hidden": self.ratio * self.width, **self.condition_sizes(spec)}


def conditioned(
    b: Builder, entries: tuple[Entry, ...], conditions: Any, stage: Var, count: Any, width: Any, static: Any
) -> tuple[Var, Var]:
    """The embedded conditions f32[B, D], and with the embedding of the stage, one of `count`, added."""
    text = embedded_sum(b, entries, conditions, width, static, "text")
    table = b.param("stage_embedder.weight", f32(count, width), "normal", std=0.02)
    return text, b.add(text, b.embedding(table, stage), out="c")


def run(
    b: Builder, x: Var, c: Var, turn: Var, drop_path: float, width: Any, depth: Any, heads: Any, hidden: Any
) -> list[Var]:
    """The output of each block for x f32[B, T, D] under c f32[B, D], positions turned by `turn` f32[B, T, d / 2]."""
    block = dropping(parallel_block) if drop_path else parallel_block
    made: list[Var] = []
    for name, rate in zip(items("blocks", depth), growing_rates(b, drop_path, depth), strict=True):
        x = b.sub(name, block, x, *rate, c, turn, dim=width, heads=heads, hidden=hidden)
        made.append(x)
    return made
