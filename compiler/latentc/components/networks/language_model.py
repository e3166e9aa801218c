"""A causal language model that goes on from a prompt: GPT-2.

Beside token_transformer: that knows places by their number in the sequence, and starts with all of its conditions. Here
prompts of a batch differ in length, so that places are counted per sample, and prompts share the table of the tokens.

Symbols: B batch, T tokens of a sample, L tokens before them, V vocabulary, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from latentc.components.backbone import add_method
from latentc.components.blocks.block import Block
from latentc.components.blocks.conditions.in_context import InContext
from latentc.components.blocks.mixing import cached_blocks
from latentc.components.capabilities import Capability, Role
from latentc.components.condition import Condition, Entry, Form, ports_of, with_operands
from latentc.components.contract import Network, Port
from latentc.components.decoding import DECODE, MASKED
from latentc.components.kit.texts import joined
from latentc.components.networks._class_names import ClassTokens, longest, named, problems_of_names, rows_of
from latentc.components.networks._patch_blocks import TokenBlocks
from latentc.components.parts import Problem, Spec, Weights
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, i64, module_class
from latentc.ir.types import B


class LanguageModel(TokenBlocks):
    """Causal transformer over tokens after a class and a prompt, or a start token (Radford et al. 2019, GPT-2).

    `forward`: tokens i64[B, T - 1], conditions -> logits f32[B, T, V], the first from what stands before the tokens.
    `prefill`: conditions -> logits f32[B, V] of the first token, caches. `decode`: token i64[B], position i64[] (the
    number of the token that is wanted), caches -> logits f32[B, V], caches.
    """

    kind: Literal["language_model"]
    context: int = Field(1024, gt=0, le=1_048_576, description="maximum sequence length")
    start: int | None = Field(
        None,
        ge=0,
        le=16_777_215,
        description="start token of every sequence; null: none, the class or prompt starts it",
    )
    class_tokens: ClassTokens | None = Field(
        None,
        description="token that stands for each class (GeDi), or its name and what parts it from the text, as text or "
        "tokens; null: a learned embedding of each class",
    )
    block: Block = Field(description="the repeated block; its mixer is causal")
    weights: Weights = Field("normal", description="initialisation of linear layers")
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "language_model",
        "width": 16,
        "depth": 2,
        "context": 256,
        "start": 0,
        "block": {
            **Block.EXAMPLE,
            "mixer": {"kind": "attention", "heads": 2, "causal": True},
            "feed_forward": {"kind": "gelu_mlp", "ratio": 2},
        },
    }

    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"next_token"})
    TAKES: ClassVar[tuple[Form, ...]] = ("array", "tokens")

    @property
    def fixed(self) -> tuple[str, ...]:
        return ("length",) if self.class_tokens is not None else ()

    def takes(self, spec: Spec) -> dict[str, Condition]:
        """In the order in which `conditions` names them, if it does: that of the sequence."""
        found = super().takes(spec)
        return found if self.conditions is None else {name: found[name] for name in self.conditions if name in found}

    def problems(self, spec: Spec) -> Iterator[Problem]:
        tokens = spec.data.tokens
        if tokens is None:
            yield Problem((), f"a language_model takes tokens, but the data has {spec.data.words}")
            return
        yield from self.block.problems_of_width(self.width)
        yield from self.block.problems_of_decoding("a language_model predicts the next token")
        yield from self.block.problems_of_condition(self.kind, None)
        begins = () if self.start is None else (self.start,)
        if any(not 0 <= token < tokens.vocabulary for token in begins):
            yield Problem(("start",), f"tokens are 0 to {tokens.vocabulary - 1}")
        yield from self.problems_of_conditions(spec)
        entries = self.entries(spec)
        yield from problems_of_names(rows_of(self.class_tokens), tokens.vocabulary, entries)
        forms = [entry.form for entry in entries]
        if forms.count("array") > 1 and forms[-forms.count("array") :] != ["array"] * forms.count("array"):
            message = "the prompts that a language_model continues must be the last conditions"
            yield Problem((), message, "name them last in `conditions`")
        for entry in entries:
            if entry.form == "array" and entry.token_shape(spec).length != entry.ports[0].type.shape[-1]:
                message = f"condition `{entry.name}` is not a prompt that a language_model can continue"
                yield Problem((), message, "use `{kind: prompt}`, or list other `conditions`")
            if entry.form == "array":
                field = spec.data.fields.get(entry.condition.field or entry.name)
                if field is not None and field.classes not in (None, tokens.vocabulary):
                    message = f"prompt `{entry.name}` has {field.classes} tokens, but the data has {tokens.vocabulary}"
                    yield Problem((), message, "give both the same vocabulary")
        if not entries:
            message = "a language_model goes on from a class or a prompt, and takes neither"
            yield Problem(
                (), message, "add `conditioning.class: {kind: label}`; with `data.classes: 1` it tells nothing"
            )
        length = self.before(entries, spec) + tokens.length - 1
        if length > self.context:
            yield Problem(("context",), f"sequences have {length} positions, but `context` is {self.context}")

    def before(self, entries: tuple[Entry, ...], spec: Spec) -> int:
        """L: how many tokens stand before those of a sample."""
        rows, cond = rows_of(self.class_tokens), 0
        for entry in entries:
            by_name = entry.form == "tokens" and rows is not None
            cond += longest(rows) if by_name and rows else entry.token_shape(spec).length
        return cond + (self.start is not None)

    def sizes(self, spec: Spec, before: int) -> dict[str, Any]:
        """The static arguments of its methods, with `before` tokens before those of a sample."""
        assert spec.data.tokens is not None
        return {
            "vocabulary": spec.data.tokens.vocabulary,
            "length": before + spec.data.tokens.length - 1,
            **self.block_sizes(),
            **self.condition_sizes(spec),
        }

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        tokens = spec.data.tokens
        assert tokens is not None
        entries = self.entries(spec)
        before = self.before(entries, spec)
        static = self.sizes(spec, before)
        heads = static.get("kv_heads", static["heads"])
        slots = before + tokens.length - 1
        cache_type = f32(B, heads, slots, self.width // static["heads"])
        caches = (Port("caches", cache_type, "cache"),) * (2 * self.depth)
        caches += (Port("seen", f32(B, slots), "cache"), Port("count", f32(B), "cache"))
        cond = ports_of(entries)
        grown: tuple[Role, ...] = ("logits", *(port.role for port in caches))
        signatures: dict[str, tuple[tuple[Port, ...], tuple[Role, ...]]] = {
            "forward": ((Port("tokens", i64(B, tokens.length - 1), "state", tokens.vocabulary), *cond), ("logits",)),
            "prefill": (cond, grown),
            "decode": (
                (Port("token", i64(B), "token", tokens.vocabulary), Port("position", i64(), "position"), *caches),
                grown,
            ),
        }
        methods = {
            method: add_method(mb, name, method, _METHODS[method](self, entries, before), ports, static, outputs)
            for method, (ports, outputs) in signatures.items()
        }
        return Network(name, methods, self.provides(spec))


def embedded(b: Builder, tokens: Var, vocabulary: Any, width: Any, out: str = "x") -> Var:
    table = b.param("wte.weight", f32(vocabulary, width), "normal", std=0.02)
    return b.embedding(table, tokens, out=out)


def context_of(
    config: LanguageModel, b: Builder, entries: tuple[Entry, ...], operands: Sequence[Var], static: Mapping[str, Any]
) -> tuple[Var, Var, Var | None]:
    """The prefix of the tokens: embeddings f32[B, L, D], which of them count f32[B, L], the prompt i64[B, L']."""
    vocabulary, width = static["vocabulary"], static["width"]
    parts: list[tuple[Var, Var | None]] = []
    prompt: Var | None = None
    cond = list(with_operands(entries, operands))
    for entry, own in cond:
        if entry.form == "array":
            if prompt is not None:
                continue
            prompt, mask = joined(b, [(text[0], text[1]) for e, text in cond if e.form == "array"])
            parts.append((embedded(b, prompt, vocabulary, width, "prompt_x"), b.cast(mask, to="f32", out="counts")))
        elif (rows := rows_of(config.class_tokens)) is not None:
            code, known = named(b, rows, own[0])
            parts.append((embedded(b, code, vocabulary, width, "code_x"), known))
        else:
            sizes = {key: value for key, value in static.items() if key not in ("vocabulary", "length")}
            parts.append((entry.tokens(b, f"{entry.name}_embedding", own, width, sizes)[0], None))
    counts = [
        mask if mask is not None else b.full(x, shape=(x.shape[1],), value=1.0, dtype="f32", out="counts")
        for x, mask in parts
    ]
    if len(parts) == 1:
        return parts[0][0], counts[0], prompt
    return b.concat(*(x for x, _ in parts), axis=1, out="context"), b.concat(*counts, axis=1, out="counts"), prompt


def with_start(config: LanguageModel, b: Builder, x: Var, counts: Var, static: Mapping[str, Any]) -> tuple[Var, Var]:
    """The same after the start token, if there is one."""
    if config.start is None:
        return x, counts
    ones = b.full(x, shape=(1,), value=1.0, dtype="f32", out="one")
    token = b.cast(b.mul(ones, float(config.start)), to="i64", out="start")
    start = embedded(b, token, static["vocabulary"], static["width"], "start_x")
    return b.concat(start, x, axis=1, out="x"), b.concat(ones, counts, axis=1, out="counts")


def _placed(b: Builder, x: Var, places: Var, context: int, width: Any) -> Var:
    """x f32[B, N, D] with the embeddings of its places f32[B, N]."""
    table = b.param("wpe.weight", f32(context, width), "normal", std=0.01)
    return b.add(x, b.embedding(table, b.cast(places, to="i64")), out="x")


def _blocks(
    config: LanguageModel,
    b: Builder,
    x: Var,
    position: Var,
    mask: Var,
    caches: Sequence[Var],
    width: Any,
    static: Mapping[str, Any],
) -> tuple[Var, list[Var]]:
    """Tokens x f32[B, N, D] at cache position `position` through all blocks: features, and the grown caches."""
    mixer, feed_forward, norm, condition = config.block.parts()
    assert isinstance(condition, InContext)
    block = condition.block(mixer, feed_forward, norm, config.weights, DECODE)
    sizes = config.block.own(width, static)
    return cached_blocks(b, "blocks", block, len(caches) // 2, x, caches, (position, mask), dim=width, **sizes)


def logits_of(config: LanguageModel, b: Builder, x: Var, vocabulary: Any, width: Any) -> Var:
    """Logits of features x f32[B, N, D], by the table of the tokens."""
    x = config.block.parts()[2].apply(b, "norm", x)
    table = b.param("wte.weight", f32(vocabulary, width), "normal", std=0.02)
    return b.linear(x, table, out="logits")


def features_of(config: LanguageModel, b: Builder, x: Var, counts: Var, width: Any, static: Mapping[str, Any]) -> Var:
    """Features of a whole sequence x f32[B, N, D]."""
    mixer, feed_forward, norm, condition = config.block.parts()
    block = condition.block(mixer, feed_forward, norm, config.weights, MASKED)
    x, mask = _placed(b, x, places(b, counts), config.context, width), visible(b, counts)
    for i in range(config.depth):
        x = b.sub(f"blocks.{i}", block, x, mask, dim=width, **config.block.own(width, static))
    return x


@cache
def _forward(config: LanguageModel, entries: tuple[Entry, ...], before: int) -> BlockBody:
    @module_class("LanguageModel")
    def forward(b: Builder, tokens: Var, *conditions: Var, **static: Any) -> Var:
        """Logits of every token given what stands before it."""
        vocabulary, width = static["vocabulary"], static["width"]
        x = embedded(b, tokens, vocabulary, width)
        context, counts, _ = context_of(config, b, entries, conditions, static)
        context, counts = with_start(config, b, context, counts, static)
        count = int(tokens.shape[1])
        ones = b.full(x, shape=(count,), value=1.0, dtype="f32", out="ones")
        whole, known = b.concat(context, x, axis=1, out="x"), b.concat(counts, ones, axis=1, out="known")
        h = features_of(config, b, whole, known, width, static)
        first = last_counted(b, b.slice(h, axis=1, start=0, stop=before, out="h"), counts)
        rest = b.slice(h, axis=1, start=before, stop=before + count, out="h")
        return logits_of(config, b, b.concat(first, rest, axis=1, out="h"), vocabulary, width)

    return forward


@cache
def _prefill(config: LanguageModel, entries: tuple[Entry, ...], before: int) -> BlockBody:
    @module_class("LanguageModel", "prefill")
    def prefill(b: Builder, *conditions: Var, **static: Any) -> tuple[Var, ...]:
        """Takes what stands before the tokens: logits of the first token, and the caches."""
        vocabulary, width, length = static["vocabulary"], static["width"], static["length"]
        context, counts, _ = context_of(config, b, entries, conditions, static)
        x, counts = with_start(config, b, context, counts, static)
        heads = static.get("kv_heads", static["heads"])
        shape = (heads, length, width // static["heads"])
        caches = [b.full(x, shape=shape, value=0.0, dtype="f32", out="cache") for _ in range(2 * int(static["depth"]))]
        mask = b.pad(b.cast(visible(b, counts), to="f32"), axis=3, before=0, after=int(length) - before, value=0.0)
        x = _placed(b, x, places(b, counts), config.context, width)
        position = b.constant(np.int64(0))
        x, grown = _blocks(config, b, x, position, b.greater(mask, 0.5, out="mask"), caches, width, static)
        logits = logits_of(config, b, last_counted(b, x, counts), vocabulary, width)
        seen = b.pad(counts, axis=1, before=0, after=int(length) - before, value=0.0, out="seen")
        count = b.sum(counts, axes=(1,), keepdims=False, out="count")
        return b.reshape(logits, shape=(x.shape[0], vocabulary), out="logits"), *grown, seen, count

    return prefill


@cache
def _decode(config: LanguageModel, entries: tuple[Entry, ...], before: int) -> BlockBody:
    @module_class("LanguageModel", "decode")
    def decode(b: Builder, token: Var, position: Var, *caches: Var, **static: Any) -> tuple[Var, ...]:
        """Takes token `position - 1` and gives the logits of token `position`, and the grown caches."""
        vocabulary, width = static["vocabulary"], static["width"]
        *pairs, seen, count = caches
        batch, length = seen.shape
        x = embedded(b, b.reshape(token, shape=(batch, 1)), vocabulary, width)
        # The token is the position-th after the valid ones before it.
        place = b.add(count, b.cast(position, to="f32") - 1.0, out="place")
        x = _placed(b, x, b.reshape(place, shape=(batch, 1)), config.context, width)
        slot = b.op("add", position, before - 1, out="slot")
        here = b.cast(b.equal(b.arange(length), slot), to="f32", out="here")
        seen = b.maximum(seen, b.reshape(here, shape=(1, length)), out="seen")
        mask = b.reshape(b.greater(seen, 0.5), shape=(batch, 1, 1, length), out="mask")
        x, grown = _blocks(config, b, x, slot, mask, pairs, width, static)
        logits = b.reshape(logits_of(config, b, x, vocabulary, width), shape=(batch, vocabulary), out="logits")
        return logits, *grown, seen, count

    return decode


_METHODS: dict[str, Callable[[LanguageModel, tuple[Entry, ...], int], BlockBody]] = {
    "forward": _forward,
    "prefill": _prefill,
    "decode": _decode,
}


def places(b: Builder, counts: Var) -> Var:
    """f32[B, N]: the place of each token among those that count."""
    return b.maximum(b.cumsum(counts, axis=1) - 1.0, 0.0, out="places")


def visible(b: Builder, counts: Var) -> Var:
    """bool[B, 1, N, N]: a token sees itself, and those before it that count."""
    batch, length = counts.shape
    row, column = b.reshape(b.arange(length), shape=(length, 1)), b.reshape(b.arange(length), shape=(1, length))
    before = b.reshape(b.less(column, row), shape=(1, length, length))
    itself = b.reshape(b.equal(column, row), shape=(1, length, length))
    known = b.logical_and(before, b.greater(b.reshape(counts, shape=(batch, 1, length)), 0.5))
    return b.reshape(b.logical_or(known, itself), shape=(batch, 1, length, length), out="mask")


def last_counted(b: Builder, x: Var, counts: Var) -> Var:
    """f32[B, 1, D]: the features of the last token that counts, of x f32[B, N, D]."""
    batch, length, width = x.shape
    if int(length) == 1:
        return x
    place = b.cast(b.arange(length), to="f32")
    index = b.cast(b.max(b.mul(place, counts), axes=(1,), keepdims=True), to="i64")
    wide = b.broadcast_to(b.reshape(index, shape=(batch, 1, 1)), x, shape=(batch, 1, width))
    return b.take_along(x, wide, axis=1, out="x")
