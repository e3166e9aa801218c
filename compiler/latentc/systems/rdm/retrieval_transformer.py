"""A causal transformer over tokens after a start token, whose blocks attend to its conditions: RARM.

Beside token_transformer, whose sequence begins with its conditions: here they stand outside of it, so that their number
changes no weight.

Symbols: B batch, T tokens of a sample, L tokens of conditions, E their width, V vocabulary, D width, H_kv key heads,
d channels of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from latentc.components.backbone import add_method
from latentc.components.blocks.block import Block
from latentc.components.blocks.conditions.cross_attention import CrossAttention
from latentc.components.blocks.mixing import cached_blocks
from latentc.components.blocks.positions.learned import Learned
from latentc.components.capabilities import Capability, Role
from latentc.components.condition import Entry, Form, ports_of, with_operands
from latentc.components.contract import Network, Port
from latentc.components.decoding import DECODE
from latentc.components.kit.tokens import joined
from latentc.components.networks._patch_blocks import TokenBlocks
from latentc.components.parts import FeedForward, Mixer, Norm, Problem, Spec, Weights, dense
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, i64, items, module_class
from latentc.ir.types import B, Named

PLACES = Learned(kind="learned")


class RetrievalTransformer(TokenBlocks):
    """Causal transformer that attends to its conditions, such as neighbours (Blattmann et al. 2022, arXiv:2204.11824).

    `forward`: idx i64[B, T - 1], conditions -> logits f32[B, T, V]; logits i predict token i from the previous ones.
    `prefill`: conditions -> logits f32[B, V] of token 0, then the caches; `decode`: token i64[B], position i64[],
    conditions, caches -> logits f32[B, V] of token `position`, then the grown caches, a pair (keys, values) f32[B,
    H_kv, T, d] per block.
    """

    kind: Literal["retrieval_transformer"]
    block: Block = Field(description="the repeated block; its mixer is causal, its condition `cross_attention`")
    spare: int = Field(
        1,
        gt=0,
        le=65_536,
        description="additional rows of the table after those of the tokens; the last is the start token",
    )
    final_norm: bool = Field(True, description="norm before the logits")
    output_bias: bool = Field(False, description="bias of the logits")
    weights: Weights = Field("normal", description="initialisation of linear layers")
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "retrieval_transformer",
        "width": 16,
        "depth": 2,
        "block": {
            "mixer": {"kind": "attention", "heads": 2, "causal": True},
            "feed_forward": {"kind": "swiglu", "multiple_of": 8},
            "norm": {"kind": "layer_norm", "affine": True},
            "condition": {"kind": "cross_attention"},
        },
    }

    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"next_token"})
    TAKES: ClassVar[tuple[Form, ...]] = ("tokens",)

    def problems(self, spec: Spec) -> Iterator[Problem]:
        if spec.data.tokens is None:
            message = f"a {self.kind} takes tokens, but the data has {spec.data.words}"
            yield Problem((), message, "add `data.tokens`")
        yield from self.block.problems_of_width(self.width)
        yield from self.block.problems_of_decoding(f"a {self.kind} predicts the next token")
        condition = self.block.parts()[3]
        if not isinstance(condition, CrossAttention):
            message = f"blocks of a {self.kind} attend to conditions, but those of `{condition.kind}` do not"
            yield Problem(("block", "condition"), message, "use `{kind: cross_attention}`")
        if not self.takes(spec):
            message = f"a {self.kind} attends to conditions, but takes none"
            yield Problem((), message, "add `conditioning.neighbours: {kind: neighbours, field: …}`")
        yield from self.problems_of_conditions(spec)
        for name, cond in self.takes(spec).items():
            if self.form_of(cond) is not None and cond.token_shape(name, spec).masked:
                message = f"`{name}` has a mask of valid tokens, but a {self.kind} attends to all of them"
                yield Problem(("conditions",), message, "leave the condition out, or use a token_transformer")

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        tokens, entries = spec.data.tokens, self.entries(spec)
        assert tokens is not None
        own = [entry.token_shape(spec).width for entry in entries]
        static: dict[str, Any] = {
            "vocabulary": tokens.vocabulary,
            "length": tokens.length,
            "width": self.width,
            "depth": self.depth,
            "context_dim": own[0] or self.width,
            **self.block.static(self.width),
            **self.condition_sizes(spec),
        }
        heads = static["heads"]
        cache_type = f32(B, static.get("kv_heads", heads), Named(tokens.length, "T"), self.width // heads)
        caches = (Port("caches", cache_type, "cache"),) * (2 * self.depth)
        cond = ports_of(entries)
        grown: tuple[Role, ...] = ("logits", *(port.role for port in caches))
        token = (Port("token", i64(B), "token", tokens.vocabulary), Port("position", i64(), "position"))
        signatures: dict[str, tuple[tuple[Port, ...], tuple[Role, ...]]] = {
            "forward": ((Port("idx", i64(B, tokens.length - 1), "state", tokens.vocabulary), *cond), ("logits",)),
            "prefill": (cond, grown),
            "decode": ((*token, *cond, *caches), grown),
        }
        methods = {
            method: add_method(mb, name, method, _METHODS[method](self, entries), ports, static, outputs)
            for method, (ports, outputs) in signatures.items()
        }
        return Network(name, methods, self.PROVIDES)

    def parts(self) -> tuple[Mixer, FeedForward, Norm, CrossAttention]:
        mixer, feed_forward, norm, condition = self.block.parts()
        assert isinstance(condition, CrossAttention)
        return mixer, feed_forward, norm, condition

    def embed(self, b: Builder, idx: Var, vocabulary: int, width: int) -> Var:
        table = b.param("tok_embeddings.weight", f32(vocabulary + self.spare, width), "normal", std=0.02)
        return b.embedding(table, idx, out="x")

    def started(self, b: Builder, like: Var, vocabulary: int, width: int) -> Var:
        """f32[B, 1, D]: the start token, for the batch of `like`."""
        last = int(vocabulary) + self.spare - 1
        start = b.full(like, shape=(1,), value=last, dtype="i64", out="start")
        return self.embed(b, start, vocabulary, width)

    def logits(self, b: Builder, x: Var, vocabulary: int) -> Var:
        if self.final_norm:
            x = self.parts()[2].apply(b, "norm", x)
        return dense(b, "output", x, vocabulary, self.output_bias, self.weights, out="logits")

    def context(
        self, b: Builder, entries: tuple[Entry, ...], operands: Sequence[Var], width: Any, sizes: dict[str, Any]
    ) -> Var:
        """f32[B, L, E]: the tokens of all conditions in a row."""
        cond = [
            entry.tokens(b, f"{entry.name}_embed", own, width, sizes, any_width=True)
            for entry, own in with_operands(entries, operands)
        ]
        return joined(b, cond)[0]


@cache
def _forward(config: RetrievalTransformer, entries: tuple[Entry, ...]) -> BlockBody:
    mixer, feed_forward, norm, condition = config.parts()
    block = condition.block(mixer, feed_forward, norm, config.weights)

    @module_class("RetrievalTransformer", idx="B length-1")
    def forward(
        b: Builder,
        idx: Var,
        *conditions: Var,
        vocabulary: int,
        length: int,
        width: int,
        depth: int,
        context_dim: int,
        **static: Any,
    ) -> Var:
        """Logits of every token given the conditions and the tokens before it."""
        context = config.context(b, entries, conditions, width, static)
        x = b.concat(config.started(b, idx, vocabulary, width), config.embed(b, idx, vocabulary, width), axis=1)
        x = b.reshape(x, shape=(x.shape[0], Named(length, "T"), width), out="x")
        x = PLACES.add(b, x, width, 0)
        for name in items("blocks", depth):
            sizes = {"dim": width, "context_dim": context_dim, **config.block.own(width, static)}
            x = b.sub(name, block, x, context, **sizes)
        return config.logits(b, x, vocabulary)

    return forward


def _step(
    config: RetrievalTransformer,
    b: Builder,
    x: Var,
    position: Var,
    context: Var,
    caches: Sequence[Var],
    length: Any,
    width: Any,
    sizes: dict[str, Any],
) -> tuple[Var, list[Var]]:
    """One token x [B, 1, D] at `position` through all blocks: its features [B, D] and the grown caches."""
    mixer, feed_forward, norm, condition = config.parts()
    block = condition.block(mixer, feed_forward, norm, config.weights, DECODE)
    x = x + PLACES.vector_at(b, position, length, width)
    seen = b.less_equal(b.arange(length), position)
    mask = b.reshape(seen, shape=(1, 1, 1, length), out="mask")
    first, depth = (context, position, mask), len(caches) // 2
    x, grown = cached_blocks(b, "blocks", block, depth, x, caches, first, dim=width, **sizes)
    return b.reshape(x, shape=(x.shape[0], width), out="x"), grown


@cache
def _prefill(config: RetrievalTransformer, entries: tuple[Entry, ...]) -> BlockBody:
    @module_class("RetrievalTransformer", "prefill")
    def prefill(
        b: Builder,
        *conditions: Var,
        vocabulary: int,
        length: int,
        width: int,
        depth: int,
        context_dim: int,
        **static: Any,
    ) -> tuple[Var, ...]:
        """Starts a sequence: logits of token 0, and the caches with the start token in them."""
        context = config.context(b, entries, conditions, width, static)
        kv_heads = static.get("kv_heads", static["heads"])
        shape = (kv_heads, Named(length, "T"), width // static["heads"])
        caches = [b.full(context, shape=shape, value=0.0, dtype="f32", out="cache") for _ in range(2 * int(depth))]
        x, start = config.started(b, context, vocabulary, width), b.constant(np.int64(0))
        sizes = {"context_dim": context_dim, **config.block.own(width, static)}
        x, grown = _step(config, b, x, start, context, caches, length, width, sizes)
        return config.logits(b, x, vocabulary), *grown

    return prefill


@cache
def _decode(config: RetrievalTransformer, entries: tuple[Entry, ...]) -> BlockBody:
    cond = len(ports_of(entries))
    mixer = config.parts()[0]
    kv = "kv_heads" if "kv_heads" in mixer.static(config.width) else "heads"

    @module_class("RetrievalTransformer", "decode", caches=f"B {kv} T=length width//heads")
    def decode(
        b: Builder,
        token: Var,
        position: Var,
        *caches: Var,
        vocabulary: int,
        length: int,
        width: int,
        depth: int,
        context_dim: int,
        **static: Any,
    ) -> tuple[Var, ...]:
        """Takes token `position - 1` and gives the logits of token `position`, and the grown caches."""
        context = config.context(b, entries, caches[:cond], width, static)
        x = config.embed(b, b.reshape(token, shape=(token.shape[0], 1)), vocabulary, width)
        sizes = {"context_dim": context_dim, **config.block.own(width, static)}
        x, grown = _step(config, b, x, position, context, caches[cond:], length, width, sizes)
        return config.logits(b, x, vocabulary), *grown

    return decode


_METHODS: dict[str, Callable[[RetrievalTransformer, tuple[Entry, ...]], BlockBody]] = {
    "forward": _forward,
    "prefill": _prefill,
    "decode": _decode,
}
