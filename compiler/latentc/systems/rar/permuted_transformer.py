"""A causal transformer over tokens in any order, whose inputs say which position comes next: RAR.

A file of its own beside token_transformer, because every token carries two positions, its own and that of the token to
predict, and blocks are modulated by the class and the step of the sequence.

Symbols: B batch, T tokens of a sample, N tokens at once, K classes with the null, V vocabulary, D width, H_kv key
heads, d channels of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.backbone import add_method
from latentc.components.blocks.mixing import cached_blocks
from latentc.components.blocks.norms.layer_norm import LayerNorm
from latentc.components.capabilities import Capability, Role
from latentc.components.condition import Form, ports_of
from latentc.components.contract import Network, Port
from latentc.components.decoding import DECODE, BlockForm
from latentc.components.networks._patch_blocks import TokenBlocks
from latentc.components.parts import Problem, Spec, Weights, dense
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, i64, items, module_class
from latentc.ir.types import B, Named

PREFIX = 2
"""Inputs before the tokens: a learned vector and the class."""


class PermutedTransformer(TokenBlocks):
    """Causal transformer over tokens in any order, with the positions to predict (Yu et al. 2024, arXiv:2411.00776).

    `permuted`: idx i64[B, T - 1], the first tokens of an order, order i64[B, T], class i64[B] -> logits f32[B, T, V] in
    that order; `forward`: the same in raster order. `prefill`: class -> logits f32[B, V] of token 0, then the caches;
    `decode`: token i64[B], position i64[], class, caches -> logits f32[B, V] of token `position`, then the grown
    caches, a pair (keys, values) f32[B, H_kv, T + 1, d] per block.
    """

    kind: Literal["permuted_transformer"]
    weights: Weights = Field("normal", description="initialisation of linear layers")
    spare_positions: int = Field(
        0, ge=0, le=65_536, description="unused rows that checkpoints have after both tables of positions"
    )
    spare_steps: int = Field(0, ge=0, le=65_536, description="unused rows that checkpoints have after that of steps")
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "permuted_transformer",
        "width": 16,
        "depth": 2,
        "block": {
            "mixer": {"kind": "attention", "heads": 2, "causal": True},
            "feed_forward": {"kind": "gelu_mlp"},
            "norm": {"kind": "layer_norm", "affine": True},
            "condition": {"kind": "stepwise_adaln"},
        },
    }

    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"next_token", "permuted_tokens"})
    TAKES: ClassVar[tuple[Form, ...]] = ("vector",)

    @property
    def fixed(self) -> tuple[str, ...]:
        return ("length",)

    def problems(self, spec: Spec) -> Iterator[Problem]:
        if spec.data.tokens is None:
            message = f"a {self.kind} takes tokens, but the data has {spec.data.words}"
            yield Problem((), message, "add `data.tokens`")
        yield from self.block.problems_of_width(self.width)
        yield from self.block.problems_of_condition(self.kind, "a vector for each token")
        yield from self.block.problems_of_decoding(f"a {self.kind} predicts the next token")
        ports = [port for name, condition in self.takes(spec).items() for port in condition.ports(name, spec)]
        if len(ports) != 1 or ports[0].values is None or ports[0].type.rank != 1:
            message = f"a {self.kind} takes one class, as an index"
            yield Problem(("conditions",), message, "use one condition `{kind: label}`")

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        tokens, entries = spec.data.tokens, self.entries(spec)
        assert tokens is not None
        cond = ports_of(entries)
        static: dict[str, Any] = {
            "vocabulary": tokens.vocabulary,
            "classes": cond[0].values,
            "length": tokens.length,
            **self.block_sizes(),
        }
        length, kv_heads = Named(tokens.length, "T"), static.get("kv_heads", static["heads"])
        cache_type = f32(B, kv_heads, length + PREFIX - 1, self.width // static["heads"])
        caches = (Port("caches", cache_type, "cache"),) * (2 * self.depth)
        grown: tuple[Role, ...] = ("logits", *(port.role for port in caches))
        idx = Port("idx", i64(B, length - 1), "state", tokens.vocabulary)
        token = (Port("token", i64(B), "token", tokens.vocabulary), Port("position", i64(), "position"))
        signatures: dict[str, tuple[tuple[Port, ...], tuple[Role, ...]]] = {
            "forward": ((idx, *cond), ("logits",)),
            "permuted": ((idx, Port("order", i64(B, length), "position"), *cond), ("logits",)),
            "prefill": (cond, grown),
            "decode": ((*token, *cond, *caches), grown),
        }
        methods = {
            method: add_method(mb, name, method, _METHODS[method](self), ports, static, outputs)
            for method, (ports, outputs) in signatures.items()
        }
        return Network(name, methods, self.PROVIDES)


class _Tables:
    """The tables of a network: tokens and classes, own positions, positions to predict, steps of the sequence."""

    def __init__(self, config: PermutedTransformer, b: Builder, static: Mapping[str, Any]) -> None:
        self.b, self.width, self.vocabulary = b, static["width"], static["vocabulary"]
        self.length = Named(static["length"], "T")
        inputs = static["length"] + PREFIX
        places, steps = inputs + config.spare_positions, inputs + config.spare_steps
        rows = self.vocabulary + 1 + static["classes"]
        self.tokens = b.param("tok_embeddings.weight", f32(rows, self.width), "normal", std=0.02)
        self.first = b.param("cls_token", f32(1, 1, self.width), "normal", std=0.02)
        self.own = b.param("pos_embed", f32(1, places, self.width), "normal", std=0.02)
        self.target = b.param("target_pos_embed", f32(1, places, self.width), "normal", std=0.02)
        self.steps = b.param("step_embed", f32(1, steps, self.width), "normal", std=0.02)

    def class_row(self, y: Var) -> Var:
        """f32[B, 1, D]: the rows of classes i64[B], which follow those of the tokens and of a mask, which is unused."""
        row = self.b.op("add", y, self.vocabulary + 1, out="row")
        return self.b.embedding(self.tokens, self.b.reshape(row, shape=(y.shape[0], 1)), out="cond")

    def placed(self, table: Var, order: Var | None, count: Any, out: str) -> Var:
        """f32[B or 1, N, D]: rows of the first `count` positions of an order i64[B, T], or of raster order."""
        if order is None:
            return self.b.slice(table, axis=1, start=PREFIX, stop=count + PREFIX, out=out)
        rows = self.b.slice(table, axis=1, start=PREFIX, stop=self.length + PREFIX)
        rows = self.b.reshape(rows, shape=(self.length, self.width), out="rows")
        at = order if int(count) == int(self.length) else self.b.slice(order, axis=1, start=0, stop=count, out="at")
        return self.b.embedding(rows, at, out=out)

    def row(self, table: Var, place: Var, out: str) -> Var:
        """f32[1, 1, D]: the row of one place i64[]."""
        return self.b.reshape(self.b.take(table, place, axis=1), shape=(1, 1, self.width), out=out)

    def prefix(self, cond: Var) -> Var:
        """f32[B, 2, D]: the learned vector and the class, with their own positions."""
        first = self.b.broadcast_to(self.first, cond, shape=(cond.shape[0], 1, self.width), out="first")
        x = self.b.concat(first, cond, axis=1, out="x")
        return self.b.add(x, self.b.slice(self.own, axis=1, start=0, stop=PREFIX), out="x")

    def conditions(self, cond: Var, count: Any) -> Var:
        """f32[B, N, D]: the class at the first `count` steps."""
        return self.b.add(cond, self.b.slice(self.steps, axis=1, start=0, stop=count), out="c")


def _block(config: PermutedTransformer, form: BlockForm) -> BlockBody:
    mixer, feed_forward, norm, condition = config.block.parts()
    return condition.block(mixer, feed_forward, norm, config.weights, form)


def _logits(config: PermutedTransformer, b: Builder, x: Var, c: Var, vocabulary: Any, width: Any) -> Var:
    """f32[B, N, V]: the logits of features x f32[B, N, D], whose norm is modulated by c f32[B, N, D]."""
    modulation = dense(b, "adaLN", b.silu(c), 2 * width, True, "zeros", out="modulation")
    scale, shift = b.split(modulation, axis=2, sizes=(width, width), out="scale shift")
    x = LayerNorm(kind="layer_norm").apply(b, "norm", x) * (scale + 1.0) + shift
    return dense(b, "output", x, vocabulary, True, config.weights, out="logits")


def _whole(config: PermutedTransformer, b: Builder, idx: Var, order: Var | None, y: Var, static: Any) -> Var:
    """Logits f32[B, T, V] of all tokens in their order."""
    tables, width = _Tables(config, b, static), static["width"]
    length, cond = tables.length, tables.class_row(y)
    tokens = b.add(b.embedding(tables.tokens, idx), tables.placed(tables.own, order, length - 1, "own"), out="tokens")
    x = b.concat(tables.prefix(cond), tokens, axis=1, out="x")
    target = tables.placed(tables.target, order, length, "target")
    x = b.add(x, b.pad(target, axis=1, before=PREFIX - 1, after=0, value=0.0), out="x")
    x = b.reshape(x, shape=(y.shape[0], length + PREFIX - 1, width), out="x")
    c = tables.conditions(cond, length + PREFIX - 1)
    for name in items("blocks", static["depth"]):
        x = b.sub(name, _block(config, BlockForm()), x, c, dim=width, **config.block.own(width, static))
    x, c = (b.slice(t, axis=1, start=PREFIX - 1, stop=length + PREFIX - 1, out=t.value.name) for t in (x, c))
    logits = _logits(config, b, x, c, static["vocabulary"], width)
    return b.reshape(logits, shape=(y.shape[0], length, static["vocabulary"]), out="logits")


@cache
def _forward(config: PermutedTransformer) -> BlockBody:
    @module_class("PermutedTransformer", idx="B length-1")
    def forward(b: Builder, idx: Var, y: Var, **static: Any) -> Var:
        """Logits of every token in raster order, given the class and the tokens before it."""
        return _whole(config, b, idx, None, y, static)

    return forward


@cache
def _permuted(config: PermutedTransformer) -> BlockBody:
    @module_class("PermutedTransformer", "permuted", idx="B length-1", order="B T=length")
    def permuted(b: Builder, idx: Var, order: Var, y: Var, **static: Any) -> Var:
        """Logits of every token in an order of positions, given the class and the tokens before it in that order."""
        return _whole(config, b, idx, order, y, static)

    return permuted


@cache
def _prefill(config: PermutedTransformer) -> BlockBody:
    @module_class("PermutedTransformer", "prefill")
    def prefill(b: Builder, y: Var, **static: Any) -> tuple[Var, ...]:
        """Starts a sequence with the class: logits of token 0, and caches with room for the others."""
        tables, width = _Tables(config, b, static), static["width"]
        cond = tables.class_row(y)
        target = tables.placed(tables.target, None, 1, "target")
        x = b.add(tables.prefix(cond), b.pad(target, axis=1, before=PREFIX - 1, after=0, value=0.0), out="x")
        c, block = tables.conditions(cond, PREFIX), _block(config, BlockForm("begin", plain=True))
        sizes, caches = config.block.own(width, static), list[Var]()
        for i in range(int(static["depth"])):
            x, keys, values = b.sub(f"blocks.{i}", block, x, c, out="x keys values", dim=width, **sizes)
            room = tables.length - 1
            caches += [b.pad(t, axis=2, before=0, after=room, value=0.0, out="cache") for t in (keys, values)]
        x, c = (b.slice(t, axis=1, start=PREFIX - 1, stop=PREFIX, out=t.value.name) for t in (x, c))
        logits = _logits(config, b, x, c, static["vocabulary"], width)
        return b.reshape(logits, shape=(y.shape[0], static["vocabulary"]), out="logits"), *caches

    return prefill


@cache
def _decode(config: PermutedTransformer) -> BlockBody:
    kv = "kv_heads" if "kv_heads" in config.block.parts()[0].static(config.width) else "heads"

    @module_class("PermutedTransformer", "decode", caches=f"B {kv} length+1 width//heads")
    def decode(b: Builder, token: Var, position: Var, y: Var, *caches: Var, **static: Any) -> tuple[Var, ...]:
        """Takes token `position - 1` and gives the logits of token `position`, and the grown caches."""
        tables, width = _Tables(config, b, static), static["width"]
        place = b.op("add", position, PREFIX - 1, out="place")  # in the sequence, and of the token among the positions
        x = b.embedding(tables.tokens, b.reshape(token, shape=(token.shape[0], 1)), out="x")
        x = x + tables.row(tables.own, place, "own")
        x = b.add(x, tables.row(tables.target, b.op("add", position, PREFIX), "target"), out="x")
        c = b.add(tables.class_row(y), tables.row(tables.steps, place, "step"), out="c")
        taken = tables.length + PREFIX - 1
        mask = b.reshape(b.less_equal(b.arange(taken), place), shape=(1, 1, 1, taken), out="mask")
        sizes, block = config.block.own(width, static), _block(config, DECODE)
        depth, given = len(caches) // 2, (c, place, mask)
        x, grown = cached_blocks(b, "blocks", block, depth, x, caches, given, dim=width, **sizes)
        logits = _logits(config, b, x, c, static["vocabulary"], width)
        return b.reshape(logits, shape=(token.shape[0], static["vocabulary"]), out="logits"), *grown

    return decode


_METHODS: dict[str, Callable[[PermutedTransformer], BlockBody]] = {
    "forward": _forward,
    "permuted": _permuted,
    "prefill": _prefill,
    "decode": _decode,
}
