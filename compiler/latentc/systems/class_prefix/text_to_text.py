"""An encoder of a text and a causal decoder of another: BART.

Beside language_model: what stands before the tokens is encoded with sight of both sides, by blocks of its own, and the
decoder looks it up in every block.

Symbols: B batch, T tokens of a sample, S tokens of the encoder, V vocabulary, D width, H heads, d channels of a head.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.backbone import Backbone, add_method
from latentc.components.blocks.block import Block
from latentc.components.blocks.conditions.in_context import InContext
from latentc.components.capabilities import TRAINING, Capability, Role
from latentc.components.condition import Entry, Form, ports_of, with_operands
from latentc.components.contract import Network, Port
from latentc.components.decoding import DECODE, MASKED, Given
from latentc.components.networks._class_names import ClassTokens, longest, named, problems_of_names, rows_of
from latentc.components.parts import BlockParts, FeedForward, Mixer, Norm, Problem, Spec, Weights
from latentc.components.sampler import Sampler
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, i64, items, module_class
from latentc.ir.types import B
from latentc.systems.class_prefix.encoder_attention import encoder_attention, look_up, remember


class TextToText(Backbone):
    """Encodes a text that is prefixed with its class, and decodes another (BART, Lewis et al. 2020, arXiv:1910.13461).

    `forward`: tokens i64[B, T - 1], conditions -> logits f32[B, T, V]. `prefill`: conditions -> logits f32[B, V] of the
    first token, caches. `decode`: token i64[B], position i64[] (the number of the token that is wanted), caches ->
    logits f32[B, V], caches. Learned positions; norms of embeddings; logits are products with the table of the tokens.

    If it `repeats` the class, `train_forward` is `forward` with logits f32[B, E + T, V] of the repeated tokens, too,
    and these tokens i64[B, E]; if the sampler asks for it `prefill` also returns their log-probability f32[B].
    """

    kind: Literal["text_to_text"]
    width: int = Field(gt=0, le=65_536, description="channels of a token (D)")
    encoder_depth: int = Field(gt=0, le=512, description="blocks of the encoder")
    decoder_depth: int = Field(gt=0, le=512, description="blocks of the decoder")
    context: int = Field(1024, gt=0, le=1_048_576, description="maximum sequence length of encoder and decoder")
    offset: int = Field(2, ge=0, le=1_024, description="unused rows before the first position in the position tables")
    start: int = Field(ge=0, le=16_777_215, description="start token of the decoder")
    source_start: int | None = Field(
        None, ge=0, le=16_777_215, description="start token of the encoder's text, before the class; null: none"
    )
    class_tokens: ClassTokens | None = Field(
        None, description="name of each class as text or tokens; null: a learned embedding of each class"
    )
    repeats: bool = Field(
        False,
        description="the decoder's text also follows `source_start` and the class, which training predicts and "
        "whose log-probability beams count, as in fairseq",
    )
    block: Block = Field(
        description="block of encoder and decoder; its mixer is causal, without the mask in the encoder"
    )
    weights: Weights = Field("normal", description="initialisation of linear layers")
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "text_to_text",
        "width": 16,
        "encoder_depth": 1,
        "decoder_depth": 2,
        "context": 256,
        "start": 0,
        "block": {
            "mixer": {"kind": "attention", "heads": 2, "causal": True},
            "feed_forward": {"kind": "gelu_mlp", "ratio": 2},
            "norm": {"kind": "layer_norm", "affine": True},
            "condition": {"kind": "in_context", "norm_after": True},
        },
    }

    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"next_token"})
    TAKES: ClassVar[tuple[Form, ...]] = ("array", "tokens")

    def problems(self, spec: Spec) -> Iterator[Problem]:
        tokens = spec.data.tokens
        if tokens is None:
            yield Problem((), f"a text_to_text takes tokens, but the data has {spec.data.words}")
            return
        yield from self.block.problems_of_width(self.width)
        yield from self.block.problems_of_decoding("a text_to_text predicts the next token")
        yield from self.block.problems_of_condition(self.kind, None)
        for name, token in (("start", self.start), ("source_start", self.source_start)):
            if token is not None and token >= tokens.vocabulary:
                yield Problem((name,), f"tokens are 0 to {tokens.vocabulary - 1}")
        yield from self.problems_of_conditions(spec)
        entries = self.entries(spec)
        rows = rows_of(self.class_tokens)
        yield from problems_of_names(rows, tokens.vocabulary, entries, ragged=not self.repeats)
        if self.repeats and rows is None:
            message = "the decoder repeats the tokens of the class, but the class has an embedding instead"
            yield Problem(("repeats",), message, "give `class_tokens`")
        for entry in entries:
            values = entry.ports[0].values
            if entry.form == "array" and values != tokens.vocabulary:
                message = f"text `{entry.name}` has {values} tokens, but the data has {tokens.vocabulary}"
                yield Problem((), message, "give both the same vocabulary")
        if not entries:
            yield Problem((), "the encoder has no condition to encode", "add one, such as `conditioning.class`")
        most = max(self.encoded(entries, spec), self.repeated(entries) + tokens.length)
        if most > self.context:
            yield Problem(("context",), f"sequences have {most} positions, but `context` is {self.context}")

    def encoded(self, entries: tuple[Entry, ...], spec: Spec) -> int:
        """S, how many tokens the encoder takes."""
        rows, count = rows_of(self.class_tokens), int(self.source_start is not None)
        for entry in entries:
            if entry.form == "array":
                count += int(entry.ports[0].type.shape[1])  # type: ignore[arg-type]
            else:
                count += longest(rows) if rows else entry.token_shape(spec).length
        return count

    def repeated(self, entries: tuple[Entry, ...]) -> int:
        """E, the number of tokens that the decoder is given after its first one."""
        rows = rows_of(self.class_tokens)
        if not self.repeats or rows is None:
            return 0
        cond = any(entry.form == "tokens" for entry in entries)
        return (self.source_start is not None) + longest(rows) * cond

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        tokens = spec.data.tokens
        assert tokens is not None
        entries = self.entries(spec)
        before = self.repeated(entries)
        static: dict[str, Any] = {
            "vocabulary": tokens.vocabulary,
            "length": before + tokens.length,
            "places": self.offset + self.context,
            "width": self.width,
            "encoder_depth": self.encoder_depth,
            "decoder_depth": self.decoder_depth,
            **self.block.static(self.width),
            **self.condition_sizes(spec),
        }
        heads, size = static["heads"], self.width // static["heads"]
        source = self.encoded(entries, spec)
        grown = Port("caches", f32(B, static.get("kv_heads", heads), static["length"], size), "cache")
        kept = Port("memories", f32(B, heads, source, size), "cache")
        caches = (grown,) * (2 * self.decoder_depth) + (kept,) * (2 * self.decoder_depth)
        caches += (Port("known", f32(B, source), "cache"),)
        cond = ports_of(entries)
        out: tuple[Role, ...] = ("logits", *(port.role for port in caches))
        state = Port("tokens", i64(B, tokens.length - 1), "state", tokens.vocabulary)
        token, position = Port("token", i64(B), "token", tokens.vocabulary), Port("position", i64(), "position")
        scored = bool(before) and isinstance(spec.sampler, Sampler) and spec.sampler.COUNTS_REPEATED
        begun: tuple[Role, ...] = (*out, "output", "token") if scored else out
        methods = {
            "forward": add_method(mb, name, "forward", _forward(self, entries), (state, *cond), static, ("logits",)),
            "prefill": add_method(mb, name, "prefill", _prefill(self, entries, scored), cond, static, begun),
            "decode": add_method(mb, name, "decode", _decode(self, before), (token, position, *caches), static, out),
        }
        if before:
            body = _train_forward(self, entries)
            methods[TRAINING] = add_method(mb, name, TRAINING, body, (state, *cond), static, ("logits", "token"))
        return Network(name, methods, self.PROVIDES)


# ---- the two stacks


def _table(b: Builder, vocabulary: Any, width: Any) -> Var:
    return b.param("wte.weight", f32(vocabulary, width), "normal", std=0.02)


def _entered(b: Builder, config: TextToText, x: Var, places: Var, side: str, static: Mapping[str, Any]) -> Var:
    """x f32[B, N, D] with the embeddings of its places f32[B or 1, N], normalised; `side` names the parameters."""
    table = b.param(f"{side}_positions.weight", f32(static["places"], static["width"]), "normal", std=0.02)
    index = b.cast(b.add(places, float(config.offset)), to="i64", out="index")
    return config.block.parts()[2].apply(b, f"{side}_norm", b.add(x, b.embedding(table, index), out="x"))


def _source(
    b: Builder, config: TextToText, entries: tuple[Entry, ...], operands: Sequence[Var], static: Mapping[str, Any]
) -> tuple[Var, Var]:
    """Inputs of the encoder: embeddings f32[B, S, D] and their mask f32[B, S]."""
    vocabulary, width = static["vocabulary"], static["width"]
    table, rows = _table(b, vocabulary, width), rows_of(config.class_tokens)
    parts: list[tuple[Var, Var | None]] = []
    # A text follows the class, whatever the order in the spec.
    for entry, own in sorted(with_operands(entries, operands), key=lambda pair: pair[0].form == "array"):
        if entry.form == "array":
            parts.append((b.embedding(table, own[0], out="source"), b.cast(own[1], to="f32", out="counts")))
        elif rows is not None:
            code, known = named(b, rows, own[0])
            parts.append((b.embedding(table, code, out="name"), known))
        else:
            parts.append((entry.tokens(b, f"{entry.name}_embedding", own, width, static)[0], None))
    if config.source_start is not None:
        one = b.full(operands[0], shape=(1,), value=float(config.source_start), dtype="f32")
        parts.insert(0, (b.embedding(table, b.cast(one, to="i64", out="start"), out="start"), None))
    counts = [
        b.full(x, shape=(x.shape[1],), value=1.0, dtype="f32", out="counts") if mask is None else mask
        for x, mask in parts
    ]
    if len(parts) == 1:
        return parts[0][0], counts[0]
    return b.concat(*(x for x, _ in parts), axis=1, out="source"), b.concat(*counts, axis=1, out="known")


def _encoded(
    b: Builder, config: TextToText, entries: tuple[Entry, ...], operands: Sequence[Var], static: Mapping[str, Any]
) -> tuple[Var, Var]:
    """The encoder's features f32[B, S, D], and which of them count f32[B, S]."""
    x, known = _source(b, config, entries, operands, static)
    places = b.maximum(b.op("sub", b.cumsum(known, axis=1), 1.0), 0.0, out="places")
    x = _entered(b, config, x, places, "encoder", static)
    mixer, feed_forward, norm, condition = config.block.parts()
    assert isinstance(condition, InContext)
    both_ways = mixer.model_copy(update={"causal": False})
    block = condition.block(both_ways, feed_forward, norm, config.weights, MASKED)
    sizes = config.block.own(static["width"], static)
    for name in items("encoder", static["encoder_depth"]):
        x = b.sub(name, block, x, _seen(b, known), dim=static["width"], **sizes)
    return (x if condition.norm_after else norm.apply(b, "encoder_out", x)), known


def _seen(b: Builder, known: Var) -> Var:
    """bool[B, 1, 1, S]: the encoder's tokens that count."""
    batch, length = known.shape
    return b.reshape(b.greater(known, 0.5), shape=(batch, 1, 1, length), out="seen")


def _logits(b: Builder, config: TextToText, x: Var, static: Mapping[str, Any]) -> Var:
    norm, condition = config.block.parts()[2:]
    assert isinstance(condition, InContext)
    x = x if condition.norm_after else norm.apply(b, "decoder_out", x)
    bias = b.param("logits_bias", f32(static["vocabulary"]), "zeros", kind="state")
    return b.linear(x, _table(b, static["vocabulary"], static["width"]), bias, out="logits")


# ---- the methods


def _begun(b: Builder, config: TextToText, entries: tuple[Entry, ...], operands: Sequence[Var], like: Var) -> Var:
    """i64[B, 1 + E], the tokens that the decoder's text follows."""
    start = b.full(like, shape=(1,), value=config.start, dtype="i64", out="start")
    rows = rows_of(config.class_tokens)
    if not config.repeats or rows is None:
        return start
    parts = [start]
    if config.source_start is not None:
        parts.append(b.full(like, shape=(1,), value=config.source_start, dtype="i64", out="start"))
    cond = with_operands(entries, operands)
    parts += [named(b, rows, own[0])[0] for entry, own in cond if entry.form == "tokens"]
    return b.concat(*parts, axis=1, out="begun") if len(parts) > 1 else start


def _decoded(
    b: Builder,
    config: TextToText,
    entries: tuple[Entry, ...],
    tokens: Var,
    conditions: Sequence[Var],
    static: Mapping[str, Any],
) -> tuple[Var, Var]:
    """The decoder's features f32[B, E + T, D] of what it predicts, and the tokens i64[B, 1 + E] that it is given."""
    width = static["width"]
    context, known = _encoded(b, config, entries, conditions, static)
    begun = _begun(b, config, entries, conditions, tokens)
    given = b.concat(begun, tokens, axis=1, out="given")
    x = b.embedding(_table(b, static["vocabulary"], width), given, out="x")
    count = int(given.shape[1])
    places = b.reshape(b.cast(b.arange(count), to="f32"), shape=(1, count), out="places")
    x = _entered(b, config, x, places, "decoder", static)
    sizes = config.block.own(width, static)
    for name in items("decoder", static["decoder_depth"]):
        x = b.sub(name, decoder_block(config), x, context, _seen(b, known), dim=width, **sizes)
    return x, begun


@cache
def _forward(config: TextToText, entries: tuple[Entry, ...]) -> BlockBody:
    @module_class("TextToText")
    def forward(b: Builder, tokens: Var, *conditions: Var, **static: Any) -> Var:
        """Logits of every token given those before it and the encoder's text."""
        x, begun = _decoded(b, config, entries, tokens, conditions, static)
        if before := int(begun.shape[1]) - 1:
            x = b.slice(x, axis=1, start=before, stop=x.shape[1], out="x")
        return _logits(b, config, x, static)

    return forward


@cache
def _train_forward(config: TextToText, entries: tuple[Entry, ...]) -> BlockBody:
    @module_class("TextToText", TRAINING)
    def train_forward(b: Builder, tokens: Var, *conditions: Var, **static: Any) -> tuple[Var, ...]:
        """Logits of the repeated tokens and of those after them, and the repeated tokens."""
        x, begun = _decoded(b, config, entries, tokens, conditions, static)
        repeated = b.slice(begun, axis=1, start=1, stop=begun.shape[1], out="repeated")
        return _logits(b, config, x, static), repeated

    return train_forward


def _step(
    b: Builder,
    config: TextToText,
    token: Var,
    position: Var,
    caches: Sequence[Var],
    memories: Sequence[Var],
    known: Var,
    static: Mapping[str, Any],
) -> tuple[Var, list[Var]]:
    """Token i64[B, 1] at cache position `position`: logits f32[B, V] of the next one, and the grown caches."""
    width, length = static["width"], static["length"]
    x = b.embedding(_table(b, static["vocabulary"], width), token, out="x")
    place = b.reshape(b.cast(position, to="f32"), shape=(1, 1), out="place")
    x = _entered(b, config, x, place, "decoder", static)
    mask = b.reshape(b.less_equal(b.arange(length), position), shape=(1, 1, 1, length), out="mask")
    seen, sizes, grown = _seen(b, known), config.block.own(width, static), list[Var]()
    for i in range(int(static["decoder_depth"])):
        pairs = (*caches[2 * i : 2 * i + 2], *memories[2 * i : 2 * i + 2])
        operands = (x, position, mask, *pairs, seen)
        x, keys, values = b.sub(
            f"decoder.{i}", decoder_step(config), *operands, out="x keys values", dim=width, **sizes
        )
        grown += [keys, values]
    logits = _logits(b, config, x, static)
    return b.reshape(logits, shape=(x.shape[0], static["vocabulary"]), out="logits"), grown


@cache
def _prefill(config: TextToText, entries: tuple[Entry, ...], scored: bool) -> BlockBody:
    @module_class("TextToText", "prefill")
    def prefill(b: Builder, *conditions: Var, **static: Any) -> tuple[Var, ...]:
        """Encodes the text: logits of the first token, and the caches."""
        width, heads, length = static["width"], static["heads"], static["length"]
        context, known = _encoded(b, config, entries, conditions, static)
        sizes, memories = config.block.own(width, static), list[Var]()
        for i in range(int(static["decoder_depth"])):
            kept = b.sub(f"decoder.{i}", decoder_memory(config), context, out="keys values", dim=width, **sizes)
            memories += kept
        shape = (static.get("kv_heads", heads), length, width // heads)
        caches = [b.full(context, shape=shape, value=0.0, dtype="f32", out="cache") for _ in memories]
        begun = _begun(b, config, entries, conditions, context)
        count, score = int(begun.shape[1]), list[Var]()
        given = (
            [b.slice(begun, axis=1, start=i, stop=i + 1, out="token") for i in range(count)] if count > 1 else [begun]
        )
        logits, caches = _step(b, config, given[0], b.constant(0, "i64"), caches, memories, known, static)
        for i, token in enumerate(given[1:], 1):
            if scored:
                own = b.take_along(b.log_softmax(logits, axis=1), token, axis=1, out="log_p")
                score = [b.add(score[0], own, out="log_p") if score else own]
            logits, caches = _step(b, config, token, b.constant(i, "i64"), caches, memories, known, static)
        cond = [b.reshape(x, shape=(x.shape[0],), out="log_p") for x in score]
        cond += [b.slice(begun, axis=1, start=1, stop=count, out="repeated")] if score else []
        return logits, *caches, *memories, known, *cond

    return prefill


@cache
def _decode(config: TextToText, before: int) -> BlockBody:
    @module_class("TextToText", "decode")
    def decode(b: Builder, token: Var, position: Var, *caches: Var, **static: Any) -> tuple[Var, ...]:
        """Takes token `position - 1` and gives the logits of token `position`, and the grown caches."""
        count = 2 * int(static["decoder_depth"])
        own, memories, known = caches[:count], caches[count : 2 * count], caches[2 * count]
        token = b.reshape(token, shape=(token.shape[0], 1), out="token")
        slot = b.op("add", position, before, out="slot") if before else position
        logits, grown = _step(b, config, token, slot, own, memories, known, static)
        return logits, *grown, *memories, known

    return decode


def _parts(config: TextToText) -> tuple[Mixer, FeedForward, Norm, InContext]:
    mixer, feed_forward, norm, condition = config.block.parts()
    assert isinstance(condition, InContext)
    return mixer, feed_forward, norm, condition


def _joined(b: Builder, norm: Norm, name: str, x: Var, after: bool, branch: Any) -> Var:
    """x with a branch of it; the norm precedes the branch, or follows the sum."""
    if after:
        return norm.apply(b, name, b.add(x, branch(x), out="x"))
    return b.add(x, branch(norm.apply(b, name, x)), out="x")


@cache
def decoder_block(config: TextToText) -> BlockBody:
    mixer, feed_forward, norm, condition = _parts(config)
    init, after = config.weights, condition.norm_after

    @module_class("DecoderBlock")
    def block(b: Builder, x: Var, context: Var, seen: Var, *, dim: int, **static: Any) -> Var:
        """A block that also looks at the encoder's tokens where `seen` is true."""
        own = mixer.own(dim, static)
        heads = {"dim": dim, "heads": static["heads"]}
        x = _joined(b, norm, "norm1", x, after, lambda h: mixer.apply(b, "attn", h, init, Given(), dim=dim, **own)[0])
        x = _joined(
            b, norm, "norm_cross", x, after, lambda h: b.sub("cross", encoder_attention, h, context, seen, **heads)
        )
        return _fed(b, BlockParts(mixer, feed_forward, norm, init), x, after, dim, static)

    return block


@cache
def decoder_step(config: TextToText) -> BlockBody:
    mixer, feed_forward, norm, condition = _parts(config)
    init, after = config.weights, condition.norm_after

    @module_class("DecoderBlock", "decode")
    def decode(
        b: Builder,
        x: Var,
        position: Var,
        mask: Var,
        keys: Var,
        values: Var,
        kept_keys: Var,
        kept_values: Var,
        seen: Var,
        *,
        dim: int,
        **static: Any,
    ) -> tuple[Var, Var, Var]:
        """The block for one token against the cached keys and values, its own and the encoder's."""
        own = mixer.own(dim, static)
        heads = {"dim": dim, "heads": static["heads"]}
        given = Given(DECODE, {"position": position, "mask": mask, "keys": keys, "values": values})
        grown: list[Var] = []

        def mix(h: Var) -> Var:
            h, *grown[:] = mixer.apply(b, "attn", h, init, given, dim=dim, **own)
            return h

        x = _joined(b, norm, "norm1", x, after, mix)
        looked = lambda h: b.sub("cross", look_up, h, kept_keys, kept_values, seen, **heads)  # noqa: E731
        x = _joined(b, norm, "norm_cross", x, after, looked)
        return _fed(b, BlockParts(mixer, feed_forward, norm, init), x, after, dim, static), *grown  # type: ignore[return-value]

    return decode


@cache
def decoder_memory(config: TextToText) -> BlockBody:
    @module_class("DecoderBlock", "remember")
    def remember_block(b: Builder, context: Var, *, dim: int, **static: Any) -> tuple[Var, Var]:
        """Keys and values of the encoder's tokens."""
        return b.sub("cross", remember, context, out="keys values", dim=dim, heads=static["heads"])

    return remember_block


def _fed(b: Builder, parts: BlockParts, x: Var, after: bool, dim: int, static: Mapping[str, Any]) -> Var:
    return _joined(b, parts.norm, "norm2", x, after, lambda h: parts.fed(b, h, dim, static))
