"""A transformer that predicts every bit of a scale from the scales before it: Infinity.

Symbols: B batch, n the side of a scale's map, L positions of all scales, d bits of a position, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from latentc.components import Size
from latentc.components.blocks.positions.rope_2d import Rope2d
from latentc.components.capabilities import Capability
from latentc.components.condition import Entry, Form, with_operands
from latentc.components.contract import Network
from latentc.components.kit.tokens import joined
from latentc.components.parts import Problem, Spec, a_divisor
from latentc.components.sums import summed
from latentc.ir.builder import Builder, ModuleBuilder, Var, f32
from latentc.systems.infinity.attended_text import AttendedText
from latentc.systems.var.scale_transformer import ScaleParts, ScaleTransformer

POSITIONS = Rope2d(kind="rope_2d")


class BitTransformer(ScaleTransformer):
    """VAR's transformer over maps of bits (Infinity, Han et al. 2024, arXiv:2412.04431).

    As a `scale_transformer`, of latents f32[B, L - n n, d], with logits f32[B, L, 2 d]: a pair for each bit, of 0 and
    1. Rotary positions of all scales are places in the grid of the last one. A text enters as the condition
    `attended_text`: pooled, and by cross-attention.
    """

    kind: Literal["bit_transformer"]  # type: ignore[assignment]
    latent: int = Field(gt=0, le=1_024, description="bits of a position (d)")
    levels: int | None = Field(
        None, gt=1, le=64, description="rows of the embedding of scales; null: as many as there are scales"
    )
    grid: Size | None = Field(
        None, description="side of the grid in which rotary positions are places; null: that of the last scale"
    )
    chunks: int = Field(
        1, gt=0, le=512, description="groups of blocks in the names of the authors' weights; they compute nothing"
    )
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "bit_transformer",
        "width": 16,
        "depth": 2,
        "scales": [1, 2, 4],
        "latent": 4,
        "block": {
            "mixer": {"kind": "cosine_attention", "heads": 2},
            "feed_forward": {"kind": "gelu_mlp"},
            "norm": {"kind": "layer_norm"},
            "condition": {"kind": "adaln_single"},
        },
    }

    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"next_scale_bits"})
    TAKES: ClassVar[tuple[Form, ...]] = ("vector", "tokens")

    def parts(
        self, entries: tuple[Entry, ...], b: Builder, width: int, static: Any, conditions: Sequence[Var]
    ) -> ScaleParts:
        return BitParts(self, entries, b, width, static, conditions)

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        network = super().build(mb, name, spec, out_channels)
        return replace(network, sizes={**network.sizes, "chunks": self.chunks})

    def logits_per_token(self, spec: Spec) -> int:
        return 2 * self.latent

    def problems_of_data(self, spec: Spec) -> Iterator[Problem]:
        wanted = (self.latent, self.scales[-1], self.scales[-1])
        if spec.data.tokens is not None or spec.data.shape != wanted:
            message = f"a {self.kind} of these scales takes latents {list(wanted)}, but the data has {spec.data.words}"
            yield Problem(("scales",), message, "let the last scale and `latent` be the sizes of the latents")
        if self.levels is not None and self.levels < len(self.scales):
            message = f"{self.levels} levels are too few for {len(self.scales)} scales"
            yield Problem(("levels",), message, "leave it out")
        if self.depth % self.chunks:
            message = f"{self.chunks} chunks do not divide {self.depth} blocks"
            yield Problem(("chunks",), message, a_divisor(self.depth))
        if self.grid is not None and self.grid < self.scales[-1]:
            message = f"the grid has {self.grid} rows, but the last scale {self.scales[-1]}"
            yield Problem(("grid",), message, "leave it out")

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from super().problems(spec)
        yield from self.block.problems_of_rotary(self.width, block=POSITIONS)
        texts = [name for name, one in self.takes(spec).items() if self.form_of(one) == "tokens"]
        if texts and not self.block.parts()[3].takes_tokens:
            message = f"condition `{texts[0]}` enters by cross-attention, which these blocks do not have"
            yield Problem(("block", "condition"), message, "use `{kind: text_modulation}`")
        for name in texts:
            if not isinstance(spec.conditions[name], AttendedText):
                message = f"a {self.kind} begins with a vector, but condition `{name}` has only tokens"
                yield Problem((), message, f"use `conditioning.{name}.kind: attended_text`")


class BitParts(ScaleParts):
    """Also takes texts, and has rotary positions in place of learned ones."""

    def conditioned(self, conditions: Sequence[Var]) -> tuple[Var, tuple[Var, ...]]:
        b, vectors, texts = self.b, list[Var](), list[tuple[Var, Var | None]]()
        for entry, operands in with_operands(self.entries, conditions):
            if entry.form == "vector":
                vectors.append(entry.vector(b, entry.prefix, operands, self.width, self.static))
                continue
            assert isinstance(entry.condition, AttendedText)
            made = entry.condition.pooled_and_tokens(b, entry.prefix, entry.name, operands, self.width, self.static)
            vectors.append(made[0])
            texts.append(made[1:])
        return summed(b, "c", vectors), joined(b, texts)

    def placed(self, x: Var, first: int, last: int) -> Var:
        b, config = self.b, self.config
        assert isinstance(config, BitTransformer)
        count = config.levels or len(config.scales)
        rows = b.param("scale_embedding", f32(count, self.width), "normal", std=0.02)
        if first == last:
            return b.add(x, b.slice(rows, axis=0, start=first, stop=first + 1, out="of_scale"), out="x")
        scale = np.repeat(np.arange(first, last + 1), config.lengths[first : last + 1])
        return b.add(x, b.embedding(rows, b.constant(scale, out="scale"), out="of_scale"), out="x")

    def rotary(self, first: int, last: int) -> tuple[Var, ...]:
        b, config = self.b, self.config
        assert isinstance(config, BitTransformer)
        grid = config.grid or config.scales[-1]
        places = [np.round(np.arange(n) * (grid / n)).astype(int) for n in config.scales[first : last + 1]]
        index = np.concatenate([(at[:, None] * grid + at).ravel() for at in places])
        tables = POSITIONS.rotary(b, self.width // config.block.heads(self.static), grid, 0)
        chosen = b.constant(index, out="places")
        return tuple(b.take(t, chosen, axis=0, out=n) for t, n in zip(tables, ("cos", "sin"), strict=True))
