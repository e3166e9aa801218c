"""A causal transformer over tokens that follow those of its conditions: LlamaGen, taming transformers and their kin.

Symbols: B batch, T tokens of a sample or of a window, n tokens of conditions, L = n + T - 1 tokens that it takes, V
vocabulary, D width, H_kv key heads, d channels of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from latentc.components import Component, OneOf, Size
from latentc.components.backbone import add_method
from latentc.components.blocks.block import Block
from latentc.components.blocks.conditions.in_context import InContext
from latentc.components.blocks.mixing import cached_blocks
from latentc.components.blocks.positions.learned import Learned
from latentc.components.capabilities import Capability, Role
from latentc.components.condition import Entry, Form, ports_of, with_operands
from latentc.components.contract import Network, Port
from latentc.components.decoding import BlockForm
from latentc.components.kit.orders import Reading, reading_order, unreadable
from latentc.components.networks._patch_blocks import TokenBlocks
from latentc.components.parts import FeedForward, Mixer, Norm, Positions, Problem, Spec, Weights, dense
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, i64, items, module_class
from latentc.ir.types import B, Named


class TokenTransformer(TokenBlocks):
    """Causal transformer whose first tokens are the conditions (LlamaGen, Sun et al. 2024, arXiv:2406.06525).

    `forward`: idx i64[B, T - 1], conditions -> logits f32[B, T, V]; logits i predict token i from the previous ones.
    `prefill`: conditions -> logits f32[B, V] of token 0, then the caches; `decode`: token i64[B], position i64[],
    caches -> logits f32[B, V] of token `position`, then the grown caches, a pair (keys, values) f32[B, H_kv, L, d] per
    block.
    """

    kind: Literal["token_transformer"]
    positions: Annotated[Component | None, OneOf("blocks/positions")] = Field(
        description="position encoding; null: none but the causal mask and any biases of the mixer"
    )
    block: Block = Field(description="the repeated block; its mixer is causal")
    weights: Weights = Field("normal", description="initialisation of linear layers")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout of the embedded tokens, in training")
    shared: bool = Field(
        False,
        description="conditions are rows of the token table: a class the row of its index, codes their own rows "
        "(taming transformers, Esser et al. 2021, arXiv:2012.09841)",
    )
    spare_tokens: int = Field(
        0,
        ge=0,
        le=1_048_576,
        description="rows of that table after those of the vocabulary, used only by conditions (LARP's separator)",
    )
    window: tuple[Size, Size] | None = Field(
        None,
        description="window of rows and columns of tokens that it sees at once, for larger samples, whose "
        "sampler slides it; training crops to it; null: the whole sample",
    )
    reading: Reading = Field(
        "raster",
        description="order of the tokens of a grid, as in taming transformers' permuters",
    )
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

    @property
    def fixed(self) -> tuple[str, ...]:
        return ("grid", "prefix")

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
        yield from self.block.problems_of_rotary(self.width, positions=self.positions)
        yield from self.block.problems_of_condition(self.kind, None)
        if _kind(self) == "sincos_2d":
            message = "sincos_2d has no position for the class token"
            yield Problem(("positions",), message, "use `{kind: rope_2d}` or `{kind: learned}`")
        yield from self.problems_of_conditions(spec)
        cond = {name: c.ports(name, spec) for name, c in self.takes(spec).items() if self.form_of(c) is not None}
        cond = {name: ports for name, ports in cond.items() if ports}  # problems of the others are reported elsewhere
        vocabulary = spec.data.tokens.vocabulary if spec.data.tokens is not None else 0
        yield from problems_of_prefix(cond, self.shared, vocabulary + self.spare_tokens)
        if self.spare_tokens and not self.shared:
            yield Problem(
                ("spare_tokens",),
                "`spare_tokens` adds rows for conditions, but conditions do not share the tokens' table",
                "set `shared: true`",
            )
        yield from self.block.problems_of_decoding("a token_transformer predicts the next token")
        grid = spec.data.tokens.grid if spec.data.tokens is not None else ()
        if self.window is not None and (len(grid) != 2 or grid[0] < self.window[0] or grid[1] < self.window[1]):
            message = (
                f"a window of {self.window[0]} by {self.window[1]} does not fit in tokens of "
                f"{' by '.join(map(str, grid))}"
            )
            yield Problem(("window",), message, "use a window no larger than `data.tokens.grid`")
        if self.reading != "raster" and (_gridded(self) or self.window is not None):
            message = "windows and 2D positions need tokens in raster order"
            yield Problem(("reading",), message, "use `positions: {kind: learned}`, and no `window`")
        elif (needed := unreadable(self.reading, grid)) is not None:
            yield Problem(("reading",), f"`{self.reading}` needs {needed}, not {' by '.join(map(str, grid))}")

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        tokens = spec.data.tokens
        assert tokens is not None
        seen = tokens.length if self.window is None else self.window[0] * self.window[1]
        entries = tuple(self._seen(entry, tokens.length, seen) for entry in self.entries(spec))
        prefix = prefix_length([entry.ports[0] for entry in entries])
        side = tokens.grid[0] if self.window is None else self.window[0]
        static: dict[str, Any] = {
            "vocabulary": tokens.vocabulary,
            **({"spare_tokens": self.spare_tokens} if self.spare_tokens else {}),
            **({"grid": side} if _gridded(self) else {"length": seen}),
            **({"prefix": prefix} if prefix != 1 else {}),
            **self.block_sizes(),
            **({} if self.shared else self.condition_sizes(spec)),
        }
        kv_heads = static.get("kv_heads", static["heads"])
        cache_type = f32(B, kv_heads, Named(seen + prefix - 1, "T"), self.width // static["heads"])
        caches = (Port("caches", cache_type, "cache"),) * (2 * self.depth)
        cond = ports_of(entries)
        masked = any(entry.token_shape(spec).masked for entry in entries)
        masks = tuple(port for port in cond if masked and port.type.dtype == "bool")
        grown: tuple[Role, ...] = ("logits", *(port.role for port in caches))
        signatures: dict[str, tuple[tuple[Port, ...], tuple[Role, ...]]] = {
            "forward": ((Port("idx", i64(B, seen - 1), "state", tokens.vocabulary), *cond), ("logits",)),
            "prefill": (cond, grown),
            "decode": (
                (
                    Port("token", i64(B), "token", tokens.vocabulary),
                    Port("position", i64(), "position"),
                    *masks,
                    *caches,
                ),
                grown,
            ),
        }
        methods = {
            method: add_method(mb, name, method, _METHODS[method](self, entries, masked), ports, static, outputs)
            for method, (ports, outputs) in signatures.items()
        }
        reading = None if self.reading == "raster" else tuple(reading_order(self.reading, *tokens.grid).tolist())
        return Network(name, methods, self.PROVIDES, reading=reading)

    def _seen(self, entry: Entry, length: int, seen: int) -> Entry:
        """The entry of a condition with a token per token of the sample, of which a window shows `seen`."""
        (port, *others) = entry.ports
        if not self.shared or port.type.rank != 2 or int(port.type.shape[1]) != length:  # type: ignore[arg-type]
            return entry
        return replace(entry, ports=(replace(port, type=i64(B, seen)), *others))


def _parts(config: TokenTransformer) -> tuple[Mixer, FeedForward, Norm, InContext, Positions | None]:
    mixer, feed_forward, norm, condition = config.block.parts()
    assert isinstance(condition, InContext)
    return mixer, feed_forward, norm, condition, _positions(config)


def _positions(config: TokenTransformer) -> Positions | None:
    assert config.positions is None or isinstance(config.positions, Positions)
    return config.positions


def _gridded(config: TokenTransformer) -> bool:
    """Whether its tokens must be a square, of which positions are rows and columns."""
    positions = _positions(config)
    return positions is not None and positions.GRIDDED


def _kind(config: TokenTransformer) -> str | None:
    return None if config.positions is None else config.positions.kind


def _size(config: TokenTransformer, prefix: int = 1) -> str:
    """The number of tokens, and of those of conditions but one, in terms of the class's sizes."""
    size = "grid**2" if _gridded(config) else "length"
    return size if prefix == 1 else f"{size}+prefix-1"


def _length(static: Mapping[str, Any]) -> Named:
    """Tokens of a sequence (T), from the side of their grid or their number."""
    return Named(static["grid"] ** 2 if "grid" in static else static["length"], "T")


def _taken(static: Mapping[str, Any]) -> Any:
    """Tokens that it takes (L)."""
    length = _length(static)
    return length + static["prefix"] - 1 if "prefix" in static else length


def _rotary(positions: Positions | None, b: Builder, width: int, static: Mapping[str, Any]) -> tuple[Var, ...]:
    """Tables of rotary positions, of the conditions' tokens first, or nothing."""
    if positions is None:
        return ()
    grid, prefix = static.get("grid", 0), static.get("prefix", 1)
    return positions.rotary(b, width // static["heads"], grid, prefix if grid else static["length"] + prefix)


def _condition_tokens(
    config: TokenTransformer,
    b: Builder,
    entries: tuple[Entry, ...],
    conditions: Sequence[Var],
    vocabulary: int,
    width: Any,
    sizes: Mapping[str, Any],
) -> tuple[Var, Var | None]:
    """The conditions as the first tokens, f32[B, n, D], and which of them count, bool[B, n]; None: all."""
    if not config.shared:
        ((entry, operands),) = with_operands(entries, conditions)
        return entry.tokens(b, "cls_embedding", operands, width, sizes)
    tokens = [b.reshape(x, shape=(x.shape[0], 1)) if x.type.rank == 1 else x for x in conditions]
    rows = [_embed(b, x, vocabulary, width, sizes) for x in tokens]
    return (rows[0] if len(rows) == 1 else b.concat(*rows, axis=1, out="cond")), None


def _embed(b: Builder, idx: Var, vocabulary: int, width: int, static: Mapping[str, Any]) -> Var:
    rows = vocabulary + static["spare_tokens"] if "spare_tokens" in static else vocabulary
    table = b.param("tok_embeddings.weight", f32(rows, width), "normal", std=0.02)
    return b.embedding(table, idx, out="x")


def _logits(b: Builder, x: Var, norm: Norm, vocabulary: int) -> Var:
    return dense(b, "output", norm.apply(b, "norm", x), vocabulary, False, "zeros")


@cache
def _forward(config: TokenTransformer, entries: tuple[Entry, ...], masked: bool) -> BlockBody:
    mixer, feed_forward, norm, condition, positions = _parts(config)
    block = condition.block(mixer, feed_forward, norm, config.weights, BlockForm(masked=masked))

    @module_class("Transformer", idx=f"B {_size(config)}-1")
    def forward(b: Builder, idx: Var, *conditions: Var, vocabulary: int, width: int, depth: int, **static: Any) -> Var:
        """Logits of every token given the class y and the tokens before it."""
        taken = _taken(static)
        x = _embed(b, idx, vocabulary, width, static)
        cond, counts = _condition_tokens(config, b, entries, conditions, vocabulary, width, static)
        x = b.concat(cond, x, axis=1, out="x")
        x = b.reshape(x, shape=(x.shape[0], taken, width), out="x")
        if positions is not None:
            x = positions.add(b, x, width, static.get("grid", 0))
        if config.dropout:
            x = b.dropout(x, p=config.dropout, out="x")
        rotary = tuple(
            b.slice(table, axis=0, start=0, stop=taken, out=part)
            for table, part in zip(_rotary(positions, b, width, static), ("cos", "sin"), strict=False)
        )
        seen = (visible(b, counts, taken),) if counts is not None else ()
        for name in items("blocks", depth):
            x = b.sub(name, block, x, *seen, *rotary, dim=width, **config.block.own(width, static))
        if "prefix" in static:
            x = b.slice(x, axis=1, start=static["prefix"] - 1, stop=taken, out="x")
        return _logits(b, x, norm, vocabulary)

    return forward


def _step(
    config: TokenTransformer,
    b: Builder,
    x: Var,
    position: Var,
    counts: Var | None,
    caches: list[Var],
    width: int,
    static: Any,
) -> tuple[Var, list[Var]]:
    """One token x [B, 1, D] at `position` through all blocks: its features and the grown caches.

    `counts` bool[B, n]: the tokens of conditions that count; None: all.
    """
    mixer, feed_forward, norm, condition, positions = _parts(config)
    block = condition.block(mixer, feed_forward, norm, config.weights, BlockForm("decode", plain=counts is None))
    length = _taken(static)
    if "prefix" in static:
        position = b.op("add", position, static["prefix"] - 1, out="place")
    if isinstance(positions, Learned):
        x = x + positions.vector_at(b, position, length, width)
    row = []
    for table, part in zip(_rotary(positions, b, width, static), ("cos", "sin"), strict=False):
        row.append(b.reshape(b.take(table, position, axis=0), shape=(1, table.shape[1]), out=part))
    seen = b.less_equal(b.arange(length), position)
    mask = b.reshape(seen, shape=(1, 1, 1, length), out="mask")
    if counts is not None:
        kept = b.reshape(all_counts(b, counts, length), shape=(counts.shape[0], 1, 1, length), out="kept")
        mask = b.logical_and(mask, kept, out="mask")
    sizes = config.block.own(width, static)
    return cached_blocks(b, "blocks", block, len(caches) // 2, x, caches, (position, mask), row, dim=width, **sizes)


def _begin(
    config: TokenTransformer, b: Builder, x: Var, counts: Var | None, width: int, depth: int, static: Any
) -> tuple[Var, list[Var]]:
    """Tokens of conditions x [B, n, D] through all blocks: features of the last, and caches with room for the rest."""
    mixer, feed_forward, norm, condition, positions = _parts(config)
    masked = counts is not None
    block = condition.block(mixer, feed_forward, norm, config.weights, BlockForm("begin", masked, not masked))
    seen = () if counts is None else (visible(b, counts, static["prefix"]),)
    count, length = static["prefix"], _taken(static)
    if isinstance(positions, Learned):
        x = positions.vectors(b, 0, count, length, width) + x
    rotary = tuple(
        b.slice(table, axis=0, start=0, stop=count, out=part)
        for table, part in zip(_rotary(positions, b, width, static), ("cos", "sin"), strict=False)
    )
    caches: list[Var] = []
    for i in range(int(depth)):
        own = config.block.own(width, static)
        x, keys, values = b.sub(f"blocks.{i}", block, x, *seen, *rotary, out="x keys values", dim=width, **own)
        caches += [
            b.pad(part, axis=2, before=0, after=length - count, value=0.0, out="cache") for part in (keys, values)
        ]
    return b.slice(x, axis=1, start=count - 1, stop=count, out="x"), caches


@cache
def _prefill(config: TokenTransformer, entries: tuple[Entry, ...], masked: bool) -> BlockBody:
    norm = _parts(config)[2]

    @module_class("Transformer", "prefill")
    def prefill(
        b: Builder, *conditions: Var, vocabulary: int, width: int, depth: int, **static: Any
    ) -> tuple[Var, ...]:
        """Starts a sequence with its conditions: logits of token 0, and caches that hold the conditions."""
        heads = static.get("kv_heads", static["heads"])
        x, counts = _condition_tokens(config, b, entries, conditions, vocabulary, width, static)
        if "prefix" in static:
            x, caches = _begin(config, b, x, counts, width, depth, static)
        else:
            shape = (heads, _length(static), width // static["heads"])
            caches = [b.full(x, shape=shape, value=0.0, dtype="f32", out="cache") for _ in range(2 * int(depth))]
            x, caches = _step(config, b, x, b.constant(np.int64(0)), counts, caches, width, static)
        logits = b.reshape(_logits(b, x, norm, vocabulary), shape=(x.shape[0], vocabulary), out="logits")
        return logits, *caches

    return prefill


@cache
def _decode(config: TokenTransformer, entries: tuple[Entry, ...], masked: bool) -> BlockBody:
    mixer, _, norm, _, _ = _parts(config)
    kv = "kv_heads" if "kv_heads" in mixer.static(config.width) else "heads"

    size = _size(config, prefix_length([entry.ports[0] for entry in entries]))

    @module_class("Transformer", "decode", caches=f"B {kv} T={size} width//heads")
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
        counts = None
        if masked:
            counts, *caches = caches  # type: ignore[assignment]
        x = _embed(b, b.reshape(token, shape=(token.shape[0], 1)), vocabulary, width, static)
        x, grown = _step(config, b, x, position, counts, list(caches), width, static)
        logits = b.reshape(_logits(b, x, norm, vocabulary), shape=(token.shape[0], vocabulary), out="logits")
        return logits, *grown

    return decode


_METHODS: dict[str, Callable[[TokenTransformer, tuple[Entry, ...], bool], BlockBody]] = {
    "forward": _forward,
    "prefill": _prefill,
    "decode": _decode,
}


def problems_of_prefix(cond: Mapping[str, tuple[Port, ...]], shared: bool, vocabulary: int) -> Iterator[Problem]:
    """Problems of the operands of the conditions; `shared`: they are rows of the tokens' table."""
    if not cond:
        message = "a token_transformer begins with a condition, but here it takes none"
        yield Problem((), message, "add `conditioning.class: {kind: label}`")
    if not shared:
        for name, ports in cond.items():
            if len(ports) == 1 and ports[0].type.dtype == "i64" and ports[0].type.rank == 2:
                message = f"condition `{name}` holds token numbers, but a token_transformer has no table for them"
                yield Problem(("shared",), message, "set `shared: true`")
        if len(cond) > 1:
            words = ", ".join(f"`{name}`" for name in cond)
            message = f"a token_transformer begins with a single condition, but takes {words}"
            yield Problem((), message, "list one of them in `conditions`, or set `shared: true` if they are tokens")
        return
    for name, ports in cond.items():
        if len(ports) != 1 or ports[0].type.dtype != "i64":
            message = (
                f"`shared` makes conditions rows of the tokens' table, but condition `{name}` is not a class or token"
            )
            yield Problem(("shared",), message, "leave `shared` out")
        elif (ports[0].values or 0) > vocabulary:
            message = f"condition `{name}` has {ports[0].values} values, but the table has {vocabulary} rows"
            yield Problem(("shared",), message, "leave `shared` out")


def prefix_length(ports: Sequence[Port]) -> int:
    """Tokens before those of the sample (n), of the first port of each condition."""
    types = [port.type for port in ports]
    sequences = [of.rank == 3 or (of.rank == 2 and of.dtype == "i64") for of in types]
    return sum(int(of.shape[1]) if several else 1 for of, several in zip(types, sequences, strict=True)) or 1  # type: ignore[arg-type, misc]


def all_counts(b: Builder, counts: Var, tokens: Any, out: str = "") -> Var:
    """bool[B, N]: which of N tokens count, of those of conditions bool[B, n]; those after them all do."""
    rest = int(tokens) - int(counts.shape[1])
    counts = b.pad(b.cast(counts, to="f32"), axis=1, before=0, after=rest, value=1.0)
    return b.greater(counts, 0.5, out=out)


def visible(b: Builder, counts: Var, tokens: Any) -> Var:
    """bool[B, 1, N, N]: each of N tokens sees those that count, and itself; `counts` bool[B, n] is of the first n."""
    if int(tokens) > int(counts.shape[1]):
        counts = all_counts(b, counts, tokens, "counts")
    counts = b.reshape(counts, shape=(counts.shape[0], 1, 1, tokens))
    place = b.arange(tokens)
    itself = b.equal(b.reshape(place, shape=(tokens, 1)), b.reshape(place, shape=(1, tokens)), out="itself")
    return b.logical_or(counts, itself, out="visible")
