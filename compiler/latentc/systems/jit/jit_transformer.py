"""JiT: a transformer over large patches of pixels, through a bottleneck, with class tokens in its later blocks.

Symbols: B batch, C channels, T patches, L class tokens, P patch side, D width, d channels of a head.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.backbone import add_method
from latentc.components.blocks.block import Block
from latentc.components.blocks.positions.rope_2d import Rope2d
from latentc.components.blocks.positions.sincos_2d import Sincos2d
from latentc.components.capabilities import Capability
from latentc.components.condition import Entry, Form, TimeEmbedding, ports_of, with_operands
from latentc.components.contract import Network, Port
from latentc.components.kit.patches import image, problems_of_square
from latentc.components.layers import patch_conv
from latentc.components.networks._patch_blocks import PatchBlocks
from latentc.components.networks.patch_transformer import modulated
from latentc.components.parts import Problem, Spec, dense
from latentc.components.sums import summed
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, items, module_class
from latentc.ir.types import B, Named


class JitTransformer(PatchBlocks):
    """Transformer over patches of pixels (Li and He 2025, arXiv:2511.13720).

    Takes x f32[B, C, H, W], t f32[B] and its conditions; returns f32[B, C_out, H, W]. Patches have fixed sine and
    cosine positions and rotary ones. Copies of the embedded conditions, each with a learned position, stand before the
    patches from block `context_start` on; they are not rotated.
    """

    kind: Literal["jit_transformer"]
    bottleneck: int = Field(gt=0, le=65_536, description="channels between the two linear maps that embed a patch")
    context: int = Field(32, ge=0, le=65_536, description="class tokens before the patches; 0: none")
    context_start: int = Field(0, ge=0, lt=512, description="first block with class tokens")
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "jit_transformer",
        "width": 16,
        "depth": 2,
        "patch": 4,
        "bottleneck": 4,
        "context": 2,
        "context_start": 1,
        "block": {
            **Block.EXAMPLE,
            "feed_forward": {"kind": "swiglu", "multiple_of": 8},
            "norm": {"kind": "rms_norm"},
            "condition": {"kind": "adaln_zero"},
        },
    }
    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"denoise"})
    TAKES: ClassVar[tuple[Form, ...]] = ("vector",)
    TIME: ClassVar[bool] = True

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from problems_of_square(self.kind, spec.data, self.patch)
        if self.width % 4:
            yield Problem(("width",), f"positions need a width divisible by 4, not {self.width}")
        if self.block.spatial:
            yield Problem(("block",), "class tokens and patches are no square, but a part of the block needs one")
        yield from self.block.problems_of_width(self.width)
        yield from self.block.problems_of_rotary(self.width, block=Rope2d(kind="rope_2d"))
        if self.context_start >= self.depth:
            message = f"block {self.context_start} is out of range: there are blocks 0 to {self.depth - 1}"
            yield Problem(("context_start",), message)
        if self.context and not self.takes(spec):
            message = "class tokens are copies of the embedded conditions, of which there are none"
            yield Problem(("context",), message, "set it to 0, or add `conditioning.class: {kind: label}`")
        yield from self.problems_of_conditions(spec)
        yield from self.block.problems_of_condition(self.kind, "a vector")

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        assert isinstance(spec.time, TimeEmbedding) and spec.data.shape is not None
        entries = self.entries(spec)
        static = {**self.static_of_square(spec, out_channels), "bottleneck": self.bottleneck, "context": self.context}
        ports = (Port("x", f32(B, *spec.data.shape), "state"), Port("t", f32(B), "time"), *ports_of(entries))
        forward = add_method(mb, name, "forward", _network(self, spec.time, entries), ports, static)
        return Network(name, {"forward": forward}, self.provides(spec))


@cache
def _network(config: JitTransformer, time: TimeEmbedding, entries: tuple[Entry, ...]) -> BlockBody:
    mixer, feed_forward, norm, condition = config.block.parts()
    block = condition.block(mixer, feed_forward, norm, "xavier")
    places, turns = Sincos2d(kind="sincos_2d"), Rope2d(kind="rope_2d")

    @module_class("JiT", x="B channels size size")
    def network(
        b: Builder,
        x: Var,
        t: Var,
        *conditions: Var,
        size: int,
        patch: int,
        channels: int,
        width: int,
        depth: int,
        out_channels: int,
        bottleneck: int,
        context: int,
        **static: Any,
    ) -> Var:
        """Predicts the data from noisy x at time t, given the conditions."""
        grid = size // patch
        tokens = Named(grid**2, "T")
        vectors = [
            entry.vector(b, entry.prefix, operands, width, static)
            for entry, operands in with_operands(entries, conditions)
        ]
        c = summed(b, "c", [time.vector(b, "t_embedder", t, width), *vectors])
        h = patch_conv(b, "x_embedder.proj1", x, bottleneck, patch, "xavier_matrix", bias=False)
        h = b.transpose(b.reshape(h, shape=(h.shape[0], bottleneck, tokens)), perm=(0, 2, 1), out="x")
        h = places.add(b, dense(b, "x_embedder.proj2", h, width, True, "xavier", out="x"), width, grid)
        rotary = turns.rotary(b, static.get("head_width", width // config.block.heads(static)), grid, 0)
        shared = condition.shared(b, c, width)
        for i, name in enumerate(items("blocks", depth)):
            if context and i == config.context_start:
                h, rotary = _with_context(b, h, summed(b, "y", vectors), rotary, context)
            h = b.sub(name, block, h, shared, *rotary, dim=width, **config.block.own(width, static))
        if context:
            h = b.slice(h, axis=1, start=context, stop=context + tokens, out="x")
        ends: dict[str, Any] = {"dim": width, "out_channels": out_channels, "grid": grid, "patch": patch}
        return b.sub("final_layer", _final_layer(config), h, c, **ends)  # type: ignore[no-any-return]

    return network


def _with_context(b: Builder, x: Var, y: Var, rotary: tuple[Var, ...], count: Any) -> tuple[Var, tuple[Var, ...]]:
    """Class tokens before the patches x [B, T, D], and tables [L + T, d / 2] of cosines and sines that keep them."""
    batch, _, width = x.shape
    wide = b.broadcast_to(b.reshape(y, shape=(batch, 1, width)), shape=(batch, count, width), out="y")
    tokens = b.add(wide, b.param("in_context_posemb", f32(1, count, width), "normal", std=0.02), out="context")
    tables = tuple(
        b.pad(table, axis=0, before=count, after=0, value=value, out=out)
        for table, value, out in zip(rotary, (1.0, 0.0), ("cos", "sin"), strict=True)
    )
    return b.concat(tokens, x, axis=1, out="x"), tables


@cache
def _final_layer(config: JitTransformer) -> BlockBody:
    @module_class("FinalLayer")
    def final(b: Builder, x: Var, c: Var, *, dim: int, out_channels: int, grid: int, patch: int) -> Var:
        """Normalises, modulates and projects the tokens, then lays the patches out as an image."""
        _, _, norm, condition = config.block.parts()
        x = dense(b, "linear", modulated(b, condition, norm, x, c, dim), patch * patch * out_channels, True, "zeros")
        return image(b, x, out_channels, grid, patch)

    return final
