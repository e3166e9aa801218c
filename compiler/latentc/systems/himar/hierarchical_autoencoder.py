"""A masked autoencoder over low-resolution pivots and dense tokens: the trunk of Hi-MAR.

It is no option of `masked_autoencoder`: two phases share its blocks, which are scaled by what each phase has learned.
Symbols: B batch, N pivots, T dense tokens, C channels of a token, D width, R buffer tokens that hold the condition, P
tokens in front of the pivots: the buffer, and those of conditions.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from latentc.components import Closed
from latentc.components.backbone import add_method
from latentc.components.blocks.block import Block
from latentc.components.blocks.norms.layer_norm import LayerNorm
from latentc.components.capabilities import Capability
from latentc.components.condition import Entry, Form, ports_of
from latentc.components.contract import Need, Network, Port
from latentc.components.decoding import MASKED, Given
from latentc.components.networks._masked_parts import in_front, keys_of, visibility
from latentc.components.networks._masked_trunk import MaskedTrunk
from latentc.components.parts import BlockParts, Problem, Spec, dense, table, under
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, items, module_class
from latentc.ir.types import B, Named

PHASES = Need("main", "hierarchical_features"), Need("pivot_head", "denoise"), Need("head", "denoise_sequence")
"""The networks of both phases: the trunk, and a head for pivots and one for dense tokens."""


class DecoderBlocks(Closed):
    """Blocks after the encoder that see every token, as wide as its own."""

    depth: int = Field(gt=0, le=512, description="number of blocks")
    heads: int = Field(gt=0, le=1_024, description="their attention heads")


class HierarchicalAutoencoder(MaskedTrunk):
    """Features of pivots, then of dense tokens given those of the pivots (Hi-MAR, Zheng et al. 2025, ICML).

    `pivots`: x f32[B, N, C], mask f32[B, N] (1: hidden), the conditions -> features f32[B, N + T, D]; the dense tokens
    are hidden. `forward`: x f32[B, T, C], mask f32[B, T], left_out f32[B, N] (1: a learned token replaces the pivot),
    features of the pivots f32[B, N, D], the conditions -> f32[B, N + T, D]. Sequence conditions, such as captions, are
    tokens in front, without a buffer if no condition is a vector.
    """

    kind: Literal["hierarchical_autoencoder"]
    side: int = Field(gt=0, le=1_024, description="side of the square of pivots")
    decoder: DecoderBlocks | None = Field(None, description="depth and heads of the decoder; null: as the encoder's")
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "hierarchical_autoencoder",
        "width": 16,
        "depth": 1,
        "side": 2,
        "buffer": 2,
        "block": {**Block.EXAMPLE, "feed_forward": {"kind": "gelu_mlp", "approximate": "none"}},
    }

    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"hierarchical_features"})
    TAKES: ClassVar[tuple[Form, ...]] = ("vector", "tokens")

    @property
    def fixed(self) -> tuple[str, ...]:
        return ("tokens", "side", "buffer")

    def problems(self, spec: Spec) -> Iterator[Problem]:
        if spec.data.shape is None or len(spec.data.shape) != 3:
            yield Problem((), f"a {self.kind} takes arrays [C, H, W], but the data has {spec.data.words}")
        else:
            _, height, width = spec.data.shape
            if height % self.patch or width % self.patch or height != width:
                yield Problem(
                    ("patch",),
                    f"patches of {self.patch} do not divide images of {height} by {width} into a square of tokens",
                )
            elif height // self.patch % self.side:
                message = f"{self.side} pivots per side do not divide {height // self.patch} tokens"
                yield Problem(("side",), message, f"choose a divisor of {height // self.patch}")
        yield from super().problems(spec)
        if self.decoder is not None:
            yield from under("decoder", problems=self.problems_of_decoder(self.width, self.decoder.heads))

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        length, channels = self.tokens(spec)
        static: dict[str, Any] = {
            "tokens": length,
            "side": self.side,
            "channels": channels,
            "width": self.width,
            "depth": self.depth,
            "buffer": self.buffer,
            **({} if self.decoder is None else {f"decoder_{k}": v for k, v in self.decoder.model_dump().items()}),
            **self.block.static(self.width),
            **self.condition_sizes(spec),
        }
        entries, count = self.entries(spec), self.side**2
        cond = ports_of(entries)
        pivots = (Port("x", f32(B, count, channels), "state"), Port("mask", f32(B, count), "mask"))
        dense_ports = (
            Port("x", f32(B, Named(length, "T"), channels), "state"),
            Port("mask", f32(B, Named(length, "T")), "mask"),
            Port("left_out", f32(B, count), "mask"),
            Port("pivots", f32(B, count, self.width), "features"),
        )
        first, forward = _methods(self, entries)
        methods = {
            "forward": add_method(mb, name, "forward", forward, (*dense_ports, *cond), static),
            "pivots": add_method(mb, name, "pivots", first, (*pivots, *cond), static),
        }
        return Network(name, methods, self.PROVIDES)


_OFFSETS = (
    ("offset_scale_msa", "zeros"),
    ("offset_gate_msa", "ones"),
    ("offset_scale_mlp", "zeros"),
    ("offset_gate_mlp", "ones"),
)
"""Offsets of the scales and gates of a block, one row per phase, and their initialisation."""


@cache
def _block(block: Block, init: str, masked: bool) -> BlockBody:
    mixer, feed_forward, norm, _ = block.parts()

    @module_class("ScaledMaskedBlock" if masked else "ScaledBlock")
    def scaled(b: Builder, x: Var, c: Var, phase: Var, *mask: Var, dim: int, **static: Any) -> Var:
        """A transformer block whose branches are scaled and gated by what the phase has learned, c [1, 1, 4 D]."""
        factor = b.param("adaLN_scale", f32(2, 4 * dim), "zeros")
        own = [b.param(name, f32(2, dim), start) for name, start in _OFFSETS]
        c = c * b.reshape(b.take(factor, phase, axis=0), shape=(1, 1, 4 * dim))
        parts = b.split(c, axis=2, sizes=(dim,) * 4, out="scale_msa gate_msa scale_mlp gate_mlp")
        scale_msa, gate_msa, scale_mlp, gate_mlp = (
            b.add(part, b.reshape(b.take(offset, phase, axis=0), shape=(1, 1, dim)), out=part.value.name)
            for part, offset in zip(parts, own, strict=True)
        )
        given = Given(MASKED, {"mask": mask[0]}) if mask else Given()
        h = norm.apply(b, "norm1", x) * (scale_msa + 1.0)
        x = x + gate_msa * mixer.apply(b, "attn", h, init, given, dim=dim, **mixer.own(dim, static))[0]
        h = norm.apply(b, "norm2", x) * (scale_mlp + 1.0)
        return x + gate_mlp * BlockParts(mixer, feed_forward, norm, init).fed(b, h, dim, static)

    return scaled


@cache
def _methods(config: HierarchicalAutoencoder, entries: tuple[Entry, ...]) -> tuple[BlockBody, BlockBody]:
    """`pivots` and `forward`."""
    _, _, norm, _ = config.block.parts()
    input_norm = LayerNorm(kind="layer_norm", eps=1e-6, affine=True)

    def linear(b: Builder, name: str, x: Var, width: int) -> Var:
        return dense(b, name, x, width, True, config.weights)

    def run(b: Builder, x: Var, mask: Var, phase: int, conditions: tuple[Var, ...], static: dict[str, Any]) -> Var:
        """Features of embedded tokens x [B, N + T, D], of which those where `mask` [B, N + T] is 1 are hidden."""
        width, count, batch = static["width"], static["side"] ** 2 + static["tokens"], x.shape[0]
        c, counted = in_front(b, entries, conditions, x, width, static["buffer"], static)
        front = c.shape[1]
        total = front + count
        sizes = config.block.own(width, static)
        which = b.constant(np.int64(phase), out="phase")

        def own(name: str, rows: Any) -> Var:
            """f32[1, rows, D]: the phase's part of a table with one for each."""
            both = b.param(name, f32(1, 2 * rows, width), "normal", std=0.02)
            return b.slice(both, axis=1, start=phase * rows, stop=(phase + 1) * rows)

        def scales(part: str) -> Var:
            row = b.take(table(b, f"{part}_task_emb.weight", 2, width, "unit_normal"), which, axis=0)
            row = b.silu(b.reshape(row, shape=(1, 1, width)), out="row")
            return linear(b, f"{part}_blocks_ada", row, 4 * width)

        x = b.concat(c, x, axis=1, out="x") + own("encoder_pos", total)
        x = input_norm.apply(b, "z_proj_ln", x)
        _, seen, visible, counted = visibility(b, mask, front, counted)
        every = () if counted is None else (keys_of(b, counted),)
        visible = keys_of(b, visible)
        cond = scales("encoder")
        for name in items("encoder_blocks", static["depth"]):
            x = b.sub(name, _block(config.block, config.weights, True), x, cond, which, visible, dim=width, **sizes)
        x = linear(b, "decoder_embed", norm.apply(b, "encoder_norm", x), width)
        blank = b.full(own("mask_token", count), shape=(front, width), value=0.0, dtype="f32")
        blank = b.concat(blank, own("mask_token", count), axis=1, out="blank")
        x = b.where(b.reshape(seen, shape=(batch, total, 1)), x, blank, out="x") + own("decoder_pos", total)
        cond, depth = scales("decoder"), static["depth"]
        if config.decoder is not None:
            depth, sizes = static["decoder_depth"], {**sizes, "heads": static["decoder_heads"]}
        for name in items("decoder_blocks", depth):
            block = _block(config.block, config.weights, counted is not None)
            x = b.sub(name, block, x, cond, which, *every, dim=width, **sizes)
        x = b.slice(norm.apply(b, "decoder_norm", x), axis=1, start=front, stop=total, out="x")
        return x + b.param("diffusion_pos", f32(1, count, width), "normal", std=0.02)

    @module_class("HierarchicalAutoencoder", "pivots", x="B side**2 channels", mask="B side**2")
    def pivots(b: Builder, x: Var, mask: Var, *conditions: Var, **static: Any) -> Var:
        """Features of pivots and dense tokens from the pivots that are not hidden."""
        width, tokens = static["width"], static["tokens"]
        x = linear(b, "cond_proj", x, width)
        nothing = b.full(x, shape=(tokens, width), value=0.0, dtype="f32", out="nothing")  # hidden, all of them
        hidden = b.full(mask, shape=(tokens,), value=1.0, dtype="f32", out="hidden")
        x, mask = b.concat(x, nothing, axis=1, out="x"), b.concat(mask, hidden, axis=1, out="mask")
        return run(b, x, mask, 0, conditions, static)

    @module_class(
        "HierarchicalAutoencoder",
        x="B T=tokens channels",
        mask="B T=tokens",
        left_out="B side**2",
        pivots="B side**2 width",
    )
    def forward(b: Builder, x: Var, mask: Var, left_out: Var, pivots: Var, *conditions: Var, **static: Any) -> Var:
        """Features of pivots and dense tokens from those of the pivots and the dense tokens that are not hidden."""
        width, channels, count = static["width"], static["channels"], static["side"] ** 2
        blank = b.param("cond_tokens", f32(1, count, channels), "normal", std=0.02)
        gone = b.reshape(b.greater(left_out, 0.5), shape=(*left_out.shape, 1), out="gone")
        cond = b.where(
            gone, linear(b, "cond_proj", blank, width), linear(b, "cond_z_proj", pivots, width), out="condition"
        )
        x = b.concat(cond, linear(b, "z_proj", x, width), axis=1, out="x")
        shown = b.full(mask, shape=(count,), value=0.0, dtype="f32", out="shown")
        return run(b, x, b.concat(shown, mask, axis=1, out="mask"), 1, conditions, static)

    return pivots, forward
