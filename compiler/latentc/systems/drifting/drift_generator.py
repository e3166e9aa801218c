"""The generator of drifting models: LightningDiT's blocks without a time.

Symbols: B batch, C channels, T patches, L class tokens, P patch side, D width, N random codes.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components import layers
from latentc.components.backbone import add_method
from latentc.components.blocks.block import Block
from latentc.components.blocks.positions.rope_1d import Rope1d
from latentc.components.capabilities import Capability
from latentc.components.condition import Entry, Form, ports_of, with_operands
from latentc.components.contract import Network, Port
from latentc.components.kit.patches import image, patchify, problems_of_square
from latentc.components.networks._patch_blocks import PatchBlocks
from latentc.components.networks.patch_transformer import modulated
from latentc.components.parts import Problem, Spec, dense
from latentc.components.sums import summed
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, i64, items, module_class
from latentc.ir.types import B, Named


class DriftGenerator(PatchBlocks):
    """Makes f32[B, C, H, W] in one evaluation (Deng et al. 2026, arXiv:2602.04770).

    Takes noise z f32[B, C, H, W], codes i64[B, N] and its conditions. The embeddings of conditions and codes are
    summed; the sum conditions the blocks and is shown to them as class tokens too. Positions start as sines and cosines
    and are learned; all tokens are rotated by their place in the sequence.
    """

    kind: Literal["drift_generator"]
    class_tokens: int = Field(16, ge=0, le=65_536, description="class tokens before the patches (L)")
    code_count: int = Field(32, gt=0, le=65_536, description="random codes per sample (N)")
    codebook: int = Field(64, gt=1, le=1_048_576, description="values of a code, each with a vector of its own")
    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"generate_of_codes"})
    TAKES: ClassVar[tuple[Form, ...]] = ("vector",)
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "drift_generator",
        "width": 16,
        "depth": 2,
        "patch": 2,
        "class_tokens": 2,
        "code_count": 3,
        "codebook": 4,
        "block": {
            **Block.EXAMPLE,
            "feed_forward": {"kind": "swiglu", "multiple_of": 8, "bias": True},
            "norm": {"kind": "rms_norm"},
            "condition": {"kind": "adaln_zero"},
        },
    }

    @property
    def fixed(self) -> tuple[str, ...]:
        return ("code_count", "codebook")  # samplers and losses draw codes

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from problems_of_square(self.kind, spec.data, self.patch)
        if self.width % 4:
            yield Problem(("width",), f"positions need a width divisible by 4, not {self.width}")
        if self.block.spatial:
            yield Problem(("block",), "class tokens and patches are no square, but a part of the block needs one")
        yield from self.block.problems_of_width(self.width)
        yield from self.block.problems_of_rotary(self.width, block=Rope1d(kind="rope_1d"))
        yield from self.problems_of_conditions(spec)
        yield from self.block.problems_of_condition(self.kind, "a vector")

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        assert spec.data.shape is not None
        entries = self.entries(spec)
        static = {**self.static_of_square(spec, out_channels), "class_tokens": self.class_tokens}
        static |= {"code_count": self.code_count, "codebook": self.codebook}
        ports = (
            Port("z", f32(B, *spec.data.shape), "noise", distribution="normal"),
            Port("codes", i64(B, self.code_count), "noise", values=self.codebook, distribution="integers"),
            *ports_of(entries),
        )
        forward = add_method(mb, name, "forward", _network(self, entries), ports, static)
        return Network(name, {"forward": forward}, self.PROVIDES)


@cache
def _network(config: DriftGenerator, entries: tuple[Entry, ...]) -> BlockBody:
    mixer, feed_forward, norm, condition = config.block.parts()
    block, turns = condition.block(mixer, feed_forward, norm, "xavier"), Rope1d(kind="rope_1d")

    @module_class("DriftGenerator", z="B channels size size")
    def network(
        b: Builder,
        z: Var,
        codes: Var,
        *conditions: Var,
        size: int,
        patch: int,
        channels: int,
        width: int,
        depth: int,
        out_channels: int,
        class_tokens: int,
        codebook: int,
        **static: Any,
    ) -> Var:
        """Makes samples of noise z and random codes, given the conditions."""
        grid, count = size // patch, static["code_count"]
        tokens, batch = Named(grid**2, "T"), z.shape[0]
        vectors = [
            entry.vector(b, entry.prefix, operands, width, static)
            for entry, operands in with_operands(entries, conditions)
        ]
        first = b.constant([[i * int(codebook) for i in range(int(count))]], "i64", out="first")  # row of each code
        places = b.add(codes, first, out="places")
        coded = layers.embedding(b, "code_embedder", places, count * codebook, width, "normal")
        vectors.append(b.sum(coded, axes=(1,), keepdims=False, out="coded"))
        c = summed(b, "c", vectors)
        h = dense(b, "x_embedder", patchify(b, z, patch, tokens=tokens, channels_last=True), width, True, "xavier")
        h = b.add(h, b.param("pos_embed", f32(1, tokens, width), "sincos_2d", width=width, grid=grid), out="x")
        if config.class_tokens:
            shown = b.reshape(dense(b, "class_embedder", c, width, True, "xavier"), shape=(batch, 1, width))
            shown = shown + b.param("class_tokens", f32(1, class_tokens, width), "normal", std=0.02)
            h = b.concat(shown, h, axis=1, out="x")
        heads = static.get("head_width", width // config.block.heads(static))
        rotary = turns.rotary(b, heads, grid, class_tokens)
        shared = condition.shared(b, c, width)
        for name in items("blocks", depth):
            h = b.sub(name, block, h, shared, *rotary, dim=width, **config.block.own(width, static))
        if config.class_tokens:
            h = b.slice(h, axis=1, start=class_tokens, stop=tokens + class_tokens, out="x")
        ends: dict[str, Any] = {"dim": width, "out_channels": out_channels, "grid": grid, "patch": patch}
        return b.sub("final_layer", _final_layer(config), h, c, **ends)  # type: ignore[no-any-return]

    return network


@cache
def _final_layer(config: DriftGenerator) -> BlockBody:
    @module_class("FinalLayer")
    def final(b: Builder, x: Var, c: Var, *, dim: int, out_channels: int, grid: int, patch: int) -> Var:
        """Normalises, modulates and projects the tokens, then lays the patches out as an image."""
        _, _, norm, condition = config.block.parts()
        x = dense(b, "linear", modulated(b, condition, norm, x, c, dim), patch * patch * out_channels, True, "zeros")
        return image(b, x, out_channels, grid, patch)

    return final
