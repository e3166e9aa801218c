"""A DiT over tokens that sees its own block and earlier ones: BD3-LM's network.

Symbols: B batch, T tokens of a sample, V vocabulary (token V is the mask), S tokens of a block, D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.backbone import add_method, asked
from latentc.components.capabilities import Capability
from latentc.components.condition import Entry, TimeEmbedding
from latentc.components.contract import Network, Port
from latentc.components.decoding import MASKED
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, items, module_class
from latentc.systems.mdlm.sequence_dit import (
    POSITIONS,
    SequenceDit,
    conditioned,
    drawn_among,
    embedded,
    final_layer,
    narrow,
)


class BlockDit(SequenceDit):
    """MDLM's network whose tokens see their own block and earlier ones (Arriola et al. 2025, arXiv:2503.09573).

    `forward`: idx i64[B, T] with V for masked tokens, the conditions -> logits f32[B, T, V + 1]. `train_forward` also
    takes the clean tokens i64[B, T]: masked ones see those of their block and the clean ones of earlier blocks.
    """

    kind: Literal["block_dit"]  # type: ignore[assignment]
    time: Literal["none"] = Field("none", description="the time's embedding is that of 0")
    EXAMPLE: ClassVar[dict[str, Any]] = {**SequenceDit.EXAMPLE, "kind": "block_dit"}

    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"unmask_blocks"})

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from super().problems(spec)
        if set(self.block.parts()[0].static(self.width)) - {"heads"}:
            message = f"tokens of `{self.block.mixer.kind}` with these options cannot see some tokens and not others"
            yield Problem(("block", "mixer"), message, "use `{kind: attention}` without `kv_heads` and `head_width`")

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        time, tokens = spec.time, spec.data.tokens
        assert isinstance(time, TimeEmbedding) and tokens is not None
        entries, static = self.entries(spec), {**self.static(spec), "block_size": asked(spec, name, "block", int)}
        state, *cond = self.ports(spec)
        clean = Port("clean", state.type, "token", tokens.vocabulary)
        forward, train_forward = _methods(self, time, entries)
        methods = {
            "forward": add_method(mb, name, "forward", forward, (state, *cond), static, ("logits",)),
            "train_forward": add_method(
                mb, name, "train_forward", train_forward, (state, clean, *cond), static, ("logits",)
            ),
        }
        methods = {key: drawn_among(method, tokens.vocabulary) for key, method in methods.items()}
        return Network(name, methods, self.PROVIDES)


def _blocks(b: Builder, length: Any, size: Any) -> tuple[Var, Var]:
    """The block of each of T tokens, as rows i64[T, 1] and as columns i64[1, T]."""
    block = b.div(b.arange(length), size, out="block")
    return b.reshape(block, shape=(length, 1), out="row"), b.reshape(block, shape=(1, length), out="column")


@cache
def _methods(config: BlockDit, time: TimeEmbedding, entries: tuple[Entry, ...]) -> tuple[BlockBody, BlockBody]:
    """`forward` and `train_forward`."""
    mixer, feed_forward, norm, condition = config.block.parts()
    block = narrow(condition.block(mixer, feed_forward, norm, config.weights, MASKED))

    def network(
        b: Builder, idx: Var, others: tuple[Var, ...], mask: Var, copies: int, sizes: dict[str, Any]
    ) -> tuple[Var, Var]:
        """The tokens after all blocks f32[B, copies T, D], and the condition f32[B, E]."""
        width, inner, states = sizes["width"], sizes["condition_width"], sizes["states"]
        c = conditioned(b, time, None, entries, others, idx, inner, sizes)
        x = embedded(b, config, idx, states, sizes["length"], width, copies)
        rotary = POSITIONS.rotary(b, width // config.block.heads(sizes), 0, sizes["length"])
        if copies > 1:  # both have the same positions
            rotary = tuple(b.concat(*[table] * copies, axis=0, out=table.value.name) for table in rotary)
        own = config.block.own(width, sizes)
        for name in items("blocks", sizes["depth"]):
            x = b.sub(name, block, x, c, mask, *rotary, dim=width, condition_width=inner, **own)
        return x, c

    def read(b: Builder, x: Var, c: Var, sizes: dict[str, Any]) -> Var:
        own = {"dim": sizes["width"], "condition_width": sizes["condition_width"], "states": sizes["states"]}
        logits: Var = b.sub("final_layer", final_layer(condition, norm), x, c, **own, out="logits")
        return logits

    @module_class("BlockDiT", idx="B length")
    def forward(b: Builder, idx: Var, *others: Var, **sizes: Any) -> Var:
        """Logits of every token from those of its block that are not masked and of earlier blocks."""
        length = sizes["length"]
        row, column = _blocks(b, length, sizes["block_size"])
        mask = b.less(column, row + 1, out="mask")
        mask = b.reshape(mask, shape=(1, 1, length, length), out="mask")
        return read(b, *network(b, idx, others, mask, 1, sizes), sizes)

    @module_class("BlockDiT", "train_forward", idx="B length", clean="B length")
    def train_forward(b: Builder, idx: Var, clean: Var, *others: Var, **sizes: Any) -> Var:
        """Logits of every token from those of its block that are not masked and the clean ones of earlier blocks."""
        length = sizes["length"]
        row, column = _blocks(b, length, sizes["block_size"])
        same, earlier = b.equal(row, column, out="same"), b.less(column, row, out="earlier")
        never = b.less(row + column, 0, out="never")
        noisy = b.concat(same, earlier, axis=1, out="noisy")
        mask = b.concat(noisy, b.concat(never, b.logical_or(same, earlier), axis=1), axis=0, out="mask")
        mask = b.reshape(mask, shape=(1, 1, 2 * length, 2 * length), out="mask")
        both = b.concat(idx, clean, axis=1, out="both")
        x, c = network(b, both, others, mask, 2, sizes)
        return read(b, b.slice(x, axis=1, start=0, stop=length, out="x"), c, sizes)

    return forward, train_forward
