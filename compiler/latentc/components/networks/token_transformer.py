"""A causal transformer over tokens with the class as first token: LlamaGen and its kin.

Symbols: B batch, T tokens of a sample, V vocabulary, D width, H_kv key heads, d channels of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from latentc.components import Component, OneOf
from latentc.components.backbone import Backbone, add_method
from latentc.components.blocks.block import Block
from latentc.components.blocks.conditions.in_context import InContext
from latentc.components.condition import Entry, Form, ports_of, with_operands
from latentc.components.contract import Capability, Network, Port, Role
from latentc.components.parts import FeedForward, Mixer, Norm, Positions, Problem, Weights, dense
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, i64, items, module_class
from latentc.ir.types import B, Named

if TYPE_CHECKING:
    from latentc.spec.schema import Spec


class TokenTransformer(Backbone):
    """Causal transformer whose first token is the class (LlamaGen, Sun et al. 2024, arXiv:2406.06525).

    `forward`: idx i64[B, T - 1], y i64[B] -> logits f32[B, T, V]; logits i are of token i given those before it.
    `prefill`: y -> logits f32[B, V] of token 0, then the caches; `decode`: token i64[B], position i64[], caches ->
    logits f32[B, V] of token `position`, then the grown caches, a pair (keys, values) f32[B, H_kv, T, d] a block.
    """

    kind: Literal["token_transformer"]
    width: int = Field(gt=0, le=65_536, description="channels of a token (D)")
    depth: int = Field(gt=0, le=512, description="number of blocks")
    positions: Annotated[Component | None, OneOf("blocks/positions")] = Field(
        description="how tokens know their place; null: by the causal mask, and by biases if the mixer has any"
    )
    block: Block = Field(description="the block that is repeated; its mixer is causal")
    weights: Weights = Field("normal", description="how linear layers start")
    dropout: float = Field(0.0, ge=0, lt=1, description="of the embedded tokens, in training")
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "token_transformer",
        "width": 16,
        "depth": 2,
        "positions": {"kind": "rope_2d"},
        "block": {
            "mixer": {"kind": "attention", "heads": 2, "causal": True, "bias": False},
            "feed_forward": {"kind": "swiglu", "multiple_of": 8},
            "norm": {"kind": "rms_norm"},
            "condition": {"kind": "in_context"},
        },
    }

    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"next_token"})
    TAKES: ClassVar[tuple[Form, ...]] = ("tokens",)
    CLASS: ClassVar[bool] = True

    def problems(self, spec: Spec) -> Iterator[Problem]:
        if spec.data.tokens is None:
            yield Problem(
                (), f"a token_transformer takes tokens, but the data has {spec.data.words}", "use a patch_transformer"
            )
        elif _gridded(self) and (len(grid := spec.data.tokens.grid) != 2 or grid[0] != grid[1]):
            sides = " by ".join(map(str, grid))
            message = f"`{_kind(self)}` needs a square grid of tokens, not {sides}"
            yield Problem(("positions",), message, "use `{kind: learned}`, which takes any sequence")
        yield from self.block.problems_of_width(self.width)
        yield from self.block.problems_of_decoding("a token_transformer predicts the next token")
        if self.block.condition.kind != "in_context":
            message = "a token_transformer has its class in the sequence"
            yield Problem(("block", "condition"), message, "use `{kind: in_context}`")
        if _kind(self) == "sincos_2d":
            message = "sincos_2d has no place for the class token"
            yield Problem(("positions",), message, "use `{kind: rope_2d}` or `{kind: learned}`")
        yield from self.problems_of_conditions(spec)
        told = [(name, c.length(name, spec)) for name, c in self.told(spec).items() if self.form_of(c) is not None]
        if sum(length for _, length in told) > 1:
            words = ", ".join(f"`{name}` ({length})" for name, length in told)
            message = f"a token_transformer begins with one token of condition, and is told {words}"
            yield Problem((), message, "name the one in `conditions`")

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        tokens = spec.data.tokens
        assert tokens is not None
        static: dict[str, Any] = {
            "vocabulary": tokens.vocabulary,
            **({"grid": tokens.grid[0]} if _gridded(self) else {"length": tokens.length}),
            "width": self.width,
            "depth": self.depth,
            **self.block.static(self.width),
            **self.condition_sizes(spec),
        }
        kv_heads = static.get("kv_heads", static["heads"])
        cache_type = f32(B, kv_heads, Named(tokens.length, "T"), self.width // static["heads"])
        caches = (Port("caches", cache_type, "cache"),) * (2 * self.depth)
        entries = self.entries(spec)
        told = ports_of(entries)
        grown: tuple[Role, ...] = ("logits", *(port.role for port in caches))
        signatures: dict[str, tuple[tuple[Port, ...], tuple[Role, ...]]] = {
            "forward": ((Port("idx", i64(B, tokens.length - 1), "state", tokens.vocabulary), *told), ("logits",)),
            "prefill": (told, grown),
            "decode": (
                (Port("token", i64(B), "token", tokens.vocabulary), Port("position", i64(), "position"), *caches),
                grown,
            ),
        }
        methods = {
            method: add_method(mb, name, method, _METHODS[method](self, entries), ports, static, outputs)
            for method, (ports, outputs) in signatures.items()
        }
        return Network(name, methods, self.PROVIDES)


def _parts(config: TokenTransformer) -> tuple[Mixer, FeedForward, Norm, InContext, Positions | None]:
    mixer, feed_forward, norm, condition = config.block.parts()
    assert isinstance(condition, InContext)
    return mixer, feed_forward, norm, condition, _positions(config)


def _positions(config: TokenTransformer) -> Positions | None:
    assert config.positions is None or isinstance(config.positions, Positions)
    return config.positions


def _gridded(config: TokenTransformer) -> bool:
    positions = _positions(config)
    return positions is not None and positions.GRIDDED


def _kind(config: TokenTransformer) -> str | None:
    return None if config.positions is None else config.positions.kind


def _size(config: TokenTransformer) -> str:
    """The number of tokens in terms of the class's sizes."""
    return "grid**2" if _gridded(config) else "length"


def _length(static: Mapping[str, Any]) -> Named:
    """Tokens of a sequence (T), from the side of their grid or their number."""
    return Named(static["grid"] ** 2 if "grid" in static else static["length"], "T")


def _rotary(positions: Positions | None, b: Builder, width: int, static: Mapping[str, Any]) -> tuple[Var, ...]:
    """Tables of rotary positions, of the condition's token first, or nothing."""
    if positions is None or "grid" not in static:
        return ()
    return positions.rotary(b, width // static["heads"], static["grid"], 1)


def _condition_tokens(
    b: Builder, entries: tuple[Entry, ...], conditions: Sequence[Var], width: Any, sizes: Mapping[str, Any]
) -> Var:
    """f32[B, 1, D]: the class as the first token."""
    ((entry, operands),) = with_operands(entries, conditions)
    return entry.tokens(b, "cls_embedding", operands, width, sizes)[0]


def _embed(b: Builder, idx: Var, vocabulary: int, width: int) -> Var:
    table = b.param("tok_embeddings.weight", f32(vocabulary, width), "normal", std=0.02)
    return b.embedding(table, idx, out="x")  # type: ignore[no-any-return]


def _logits(b: Builder, x: Var, norm: Norm, vocabulary: int) -> Var:
    return dense(b, "output", norm.apply(b, "norm", x), vocabulary, False, "zeros")


@cache
def _forward(config: TokenTransformer, entries: tuple[Entry, ...]) -> BlockBody:
    mixer, feed_forward, norm, condition, positions = _parts(config)
    block = condition.block(mixer, feed_forward, norm, config.weights)

    @module_class("Transformer", idx=f"B {_size(config)}-1")
    def forward(b: Builder, idx: Var, *conditions: Var, vocabulary: int, width: int, depth: int, **static: Any) -> Var:
        """Logits of every token given the class y and the tokens before it."""
        tokens = _length(static)
        x = _embed(b, idx, vocabulary, width)
        x = b.concat(_condition_tokens(b, entries, conditions, width, static), x, axis=1, out="x")
        x = b.reshape(x, shape=(x.shape[0], tokens, width), out="x")
        if positions is not None:
            x = positions.add(b, x, width, static.get("grid", 0))
        if config.dropout:
            x = b.dropout(x, p=config.dropout, out="x")
        rotary = tuple(
            b.slice(table, axis=0, start=0, stop=tokens, out=part)
            for table, part in zip(_rotary(positions, b, width, static), ("cos", "sin"), strict=False)
        )
        for name in items("blocks", depth):
            x = b.sub(name, block, x, *rotary, dim=width, **config.block.own(width, static))
        return _logits(b, x, norm, vocabulary)

    return forward


def _step(
    config: TokenTransformer, b: Builder, x: Var, position: Var, caches: list[Var], width: int, static: Any
) -> tuple[Var, list[Var]]:
    """One token x [B, 1, D] at `position` through all blocks: its features and the grown caches."""
    mixer, feed_forward, norm, condition, positions = _parts(config)
    block = condition.decode_block(mixer, feed_forward, norm, config.weights)
    length = _length(static)
    if _kind(config) == "learned":
        table = b.param("pos_embed", f32(1, length, width), "normal", std=0.02)
        x = x + b.reshape(b.take(table, position, axis=1), shape=(1, 1, width))
    row = []
    for table, part in zip(_rotary(positions, b, width, static), ("cos", "sin"), strict=False):
        row.append(b.reshape(b.take(table, position, axis=0), shape=(1, table.shape[1]), out=part))
    seen = b.less_equal(b.arange(length), position)
    mask = b.reshape(seen, shape=(1, 1, 1, length), out="mask")
    grown: list[Var] = []
    sizes = config.block.own(width, static)
    for i in range(len(caches) // 2):
        keys, values = caches[2 * i : 2 * i + 2]
        x, keys, values = b.sub(
            f"blocks.{i}", block, x, position, mask, keys, values, *row, out="x keys values", dim=width, **sizes
        )
        grown += [keys, values]
    return x, grown


@cache
def _prefill(config: TokenTransformer, entries: tuple[Entry, ...]) -> BlockBody:
    norm = _parts(config)[2]

    @module_class("Transformer", "prefill")
    def prefill(
        b: Builder, *conditions: Var, vocabulary: int, width: int, depth: int, **static: Any
    ) -> tuple[Var, ...]:
        """Starts a sequence with its class: logits of token 0, and the caches with the class token in them."""
        heads = static.get("kv_heads", static["heads"])
        shape = (heads, _length(static), width // static["heads"])
        x = _condition_tokens(b, entries, conditions, width, static)
        caches = [b.full(x, shape=shape, value=0.0, dtype="f32", out="cache") for _ in range(2 * int(depth))]
        x, caches = _step(config, b, x, b.constant(np.int64(0)), caches, width, static)
        logits = b.reshape(_logits(b, x, norm, vocabulary), shape=(x.shape[0], vocabulary), out="logits")
        return logits, *caches

    return prefill


@cache
def _decode(config: TokenTransformer, entries: tuple[Entry, ...]) -> BlockBody:
    mixer, _, norm, _, _ = _parts(config)
    kv = "kv_heads" if "kv_heads" in mixer.static(config.width) else "heads"

    @module_class("Transformer", "decode", caches=f"B {kv} T={_size(config)} width//heads")
    def decode(
        b: Builder,
        token: Var,
        position: Var,
        *caches: Var,
        vocabulary: int,
        width: int,
        depth: int,
        **static: Any,
    ) -> tuple[Var, ...]:
        """Takes token `position - 1` and gives the logits of token `position`, and the grown caches."""
        x = _embed(b, b.reshape(token, shape=(token.shape[0], 1)), vocabulary, width)
        x, grown = _step(config, b, x, position, list(caches), width, static)
        logits = b.reshape(_logits(b, x, norm, vocabulary), shape=(token.shape[0], vocabulary), out="logits")
        return logits, *grown

    return decode


_METHODS: dict[str, Callable[[TokenTransformer, tuple[Entry, ...]], BlockBody]] = {
    "forward": _forward,
    "prefill": _prefill,
    "decode": _decode,
}
