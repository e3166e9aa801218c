"""A bidirectional transformer whose condition is a token of the sequence: MaskGIT, MaskBit and MAGE.

Not `masked_transformer`, whose blocks are modulated by a vector: here blocks know nothing of the condition, tokens may
be bits or digits, and a decoder may follow. Symbols: B batch, T tokens of a sample (digits of tokens if these are
split), n tokens of the condition, V values of a token, D width, K tokens that the encoder sees in training.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.backbone import add_method, asked
from latentc.components.blocks.block import Block
from latentc.components.blocks.conditions.in_context import InContext
from latentc.components.capabilities import Capability, Role
from latentc.components.condition import Condition, Entry, Form, ports_of
from latentc.components.contract import Network, Port
from latentc.components.decoding import BlockForm
from latentc.components.kit.texts import counted
from latentc.components.kit.tokens import digit_base, rows
from latentc.components.networks._masked_parts import Decoder, keys_of
from latentc.components.networks._patch_blocks import TokenBlocks
from latentc.components.networks._stages import long_skips, skip_block
from latentc.components.networks._token_embedding import Embedding, Readout, embedded, logits, placed
from latentc.components.parts import FeedForward, Mixer, Norm, Problem, Spec, Weights, dense, under
from latentc.components.sampler import Sampler
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, i64, items, module_class
from latentc.ir.types import B, Named


class Bert(TokenBlocks):
    """Predicts every token of a partly masked sequence with a transformer over tokens and conditions.

    `forward`: idx i64[B, T] with its null for masked tokens, the conditions -> logits f32[B, T, V or more]. With a
    decoder, the encoder's output for the condition replaces masked tokens in its input, and `forward_kept`, which also
    takes rank i64[B, T] and is called in training, encodes only the K tokens of the highest ranks. BERT: Devlin et al.
    2018, arXiv:1810.04805. `remember` and `recall` are for samplers that reuse keys and values of unchanged tokens
    (ReCAP).
    """

    kind: Literal["bert"]
    depth: int = Field(gt=0, le=512, description="number of blocks; of the encoder, if there is a decoder")
    block: Block = Field(description="the repeated block; its condition is `in_context`")
    splits: int = Field(
        1,
        gt=0,
        le=64,
        description="digits into which each token is split, to be masked and predicted separately (MaskBit's "
        "groups of bits)",
    )
    embedding: Embedding = Field(Embedding(), description="embedding of tokens and condition")
    readout: Readout = Field(Readout(), description="output head that computes the logits")
    long_skips: bool = Field(
        False,
        description="blocks of the second half also take the outputs of their counterparts in the first (MaskGIT-r)",
    )
    decoder: Decoder | None = Field(
        None, description="number of decoder blocks, which see every token; null: no decoder"
    )
    weights: Weights = Field("normal", description="initialisation of linear layers")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout of the embedded tokens, in training")
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "bert",
        "width": 16,
        "depth": 1,
        "block": {**Block.EXAMPLE, "condition": {"kind": "in_context", "norm_after": True}},
    }

    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"masked_tokens"})
    RECALLS: ClassVar[bool] = True
    TAKES: ClassVar[tuple[Form, ...]] = ("tokens",)

    def problems(self, spec: Spec) -> Iterator[Problem]:
        tokens = spec.data.tokens
        if tokens is None:
            message = f"a bert takes tokens, but the data has {spec.data.words}"
            yield Problem((), message, "use a patch_transformer")
            return
        base = digit_base(tokens.vocabulary, self.splits)
        if base is None:
            message = f"{tokens.vocabulary} tokens are not a power of {self.splits}, so they do not split into digits"
            yield Problem(("splits",), message, "change `splits` or `data.tokens.vocabulary`")
        yield from self.embedding.problems(base or 1, self.splits, self.readout.kind)
        total = tokens.length + self.embedding.first(self.takes(spec))
        yield from under(
            "embedding", problems=self.embedding.problems_of_data(tokens.vocabulary, total, self.entries(spec))
        )
        if spec.data.modelled.end is not None and (self.decoder or self.long_skips or self.splits > 1):
            message = "tokens after the end of a text can be masked only in plain blocks"
            yield Problem((), message, "leave out `decoder`, `long_skips` and `splits`, or `data.fields.tokens.end`")
        for entry in self.entries(spec):
            values = entry.ports[0].values
            shared = self.embedding.labels and self.embedding.shared
            if shared and values is not None and values > self.embedding.labels:
                message = (
                    f"condition `{entry.name}` has {values} values, but the table has "
                    f"{self.embedding.labels} rows for them"
                )
                yield Problem(("embedding", "labels"), message, f"use {values} labels")
        yield from self.block.problems_of_width(self.width)
        if self.long_skips and self.depth % 2 == 0:
            message = f"long skips need as many blocks before the middle one as after it, but `depth` is {self.depth}"
            yield Problem(("depth",), message, f"use {self.depth + 1} blocks")
        if self.decoder is not None:
            yield from under("decoder", problems=self._problems_of_decoder(self.decoder, self.takes(spec)))
        if self.block.parts()[0].ordered:
            yield Problem(
                ("block", "mixer"), "a bert sees all tokens, so its mixer must not be causal", "set `causal: false`"
            )
        yield from self.block.problems_of_condition(self.kind, None)
        yield from self.problems_of_conditions(spec)
        if isinstance(spec.sampler, Sampler) and spec.sampler.recalls(tokens.length) is not None:
            if self.splits > 1:
                message = "the sampler reuses keys and values of whole tokens, but `splits` masks their digits"
                yield Problem(("splits",), message, "leave out `splits`, or use a sampler without `reuse`")
            if spec.data.modelled.end is not None:
                message = "the sampler reuses keys and values of all tokens, but texts can end before the last one"
                yield Problem((), message, "use a sampler without `reuse`")

    def _problems_of_decoder(self, decoder: Decoder, conditions: Mapping[str, Condition]) -> Iterator[Problem]:
        if decoder.width % decoder.heads:
            message = f"{decoder.heads} heads do not divide the width of {decoder.width}"
            yield Problem(("heads",), message, "change `width` or `heads`")
        if self.embedding.first(conditions) == 0:
            message = "the decoder needs a token in front, whose encoder output replaces masked tokens"
            yield Problem((), message, "add a condition in front, or set `embedding.blank`")
        if self.embedding.condition == "last":
            message = "the decoder takes its condition or blank before the tokens, not after them"
            yield Problem((), message, "set `embedding.condition: first`")
        if self.splits > 1:
            yield Problem(
                (), "the decoder replaces whole tokens, but `splits` masks their digits", "leave out one of them"
            )
        if set(self.block.parts()[0].static(decoder.width)) != {"heads"}:
            message = f"the decoder has its own number of heads, which `{self.block.mixer.kind}` does not support"
            yield Problem((), message, "use the mixer `{kind: attention}` without `kv_heads`")

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        tokens = spec.data.tokens
        assert tokens is not None
        base = digit_base(tokens.vocabulary, self.splits) or tokens.vocabulary
        length = tokens.length * self.splits
        most = asked(spec, name, "most_known", int)(tokens.length)
        shortens = self.decoder is not None and most < tokens.length
        recall = spec.sampler.recalls(length) if isinstance(spec.sampler, Sampler) else None
        decoder = (
            {} if self.decoder is None else {"decoder_width": self.decoder.width, "decoder_depth": self.decoder.depth}
        )
        static: dict[str, Any] = {
            "vocabulary": base,
            **self.embedding.static(),
            "tokens": tokens.length,
            **({"splits": self.splits} if self.splits > 1 else {}),
            **({"known": most} if shortens else {}),
            **({} if recall is None else {"recalled": recall.tokens}),
            **self.block_sizes(),
            **decoder,
            **({"decoder_heads": self.decoder.heads} if self.decoder else {}),
            **self.condition_sizes(spec),
        }
        entries = self.entries(spec)
        null = self.embedding.null(base)
        rows = self.embedding.rows(base, self.embedding.labels)
        idx = Port("idx", i64(B, Named(length, "T")), "state", rows, null)
        rank = Port("rank", i64(B, Named(length, "T")), "position")
        forward, forward_kept, remember, recalled = _methods(self, entries, spec.data.modelled.end)
        depth = 0 if self.decoder is None else self.decoder.depth
        cond = ports_of(entries)
        methods = {"forward": add_method(mb, name, "forward", forward, (idx, *cond), static, ("logits",))}
        if shortens:
            ports = (idx, rank, *cond)
            methods["forward_kept"] = add_method(mb, name, "forward_kept", forward_kept, ports, static, ("logits",))
        if recall is not None:
            cached: Role = "cache"
            outputs: list[Role] = ["logits", *[cached] * (2 * (self.depth + depth))]
            methods["remember"] = add_method(mb, name, "remember", remember, (idx, *cond), static, outputs)
            caches = methods["remember"].outputs[1:]
            kept = [Port(f"caches_{i}" if i > 1 else "caches", port.type, "cache") for i, port in enumerate(caches, 1)]
            local, every = Named(recall.tokens, "G"), Named(length, "T")
            some = (
                replace(idx, type=i64(B, local)),
                Port("counted", f32(B, local), "mask"),
                Port("others", f32(B, every), "mask"),
                Port("position", i64(B, local), "position"),
                *cond,
                *kept,
            )
            methods["recall"] = add_method(mb, name, "recall", recalled, some, static, ("logits",))
        for key, method in methods.items():
            # Only tokens of the data are drawn, not the mask or other rows of the table.
            methods[key] = replace(method, outputs=(replace(method.outputs[0], values=base), *method.outputs[1:]))
        sizes = {
            "splits": self.splits,
            "flat": int(not self.long_skips),
            "half": self.depth // 2,
            "whole": int(self.splits == 1),
            "bits": int(self.embedding.kind == "bits"),
            "places": self.embedding.position_rows(tokens.length + self.embedding.first(self.takes(spec))),
        }
        return Network(name, methods, self.PROVIDES, sizes=sizes)


@dataclass(frozen=True)
class _Local:
    """A few tokens: their places i64[B, G], which of them count f32[B, G], and what is remembered of all.

    `others` f32[B, T] is 1 for those that are not among them.
    """

    at: Var
    counted: Var
    others: Var
    caches: tuple[Var, ...]

    def recalling(self, b: Builder, before: int, after: Any) -> Recalling:
        """Evaluates conditions anew: `before` tokens before those of the data, and `after` after them."""
        sides = [
            b.full(self.others, shape=(count,), value=value, dtype="f32")
            for value in (0.0, 1.0)
            for count in (before, after)
            if int(count)
        ]
        old, new = sides[: len(sides) // 2], sides[len(sides) // 2 :]
        parts = [*old, self.others, *new, self.counted] if before else [self.others, *old, self.counted, *new]
        return Recalling(self.caches, keys_of(b, b.greater(b.concat(*parts, axis=1), 0.5)))


@cache
def _methods(config: Bert, entries: tuple[Entry, ...], end: int | None) -> tuple[BlockBody, ...]:
    """`forward`, `forward_kept`, `remember` and `recall`."""
    mixer, feed_forward, norm, condition = config.block.parts()
    assert isinstance(condition, InContext)
    block = condition.block(mixer, feed_forward, norm, config.weights, BlockForm(masked=end is not None))

    def network(
        b: Builder,
        idx: Var,
        conditions: tuple[Var, ...],
        width: int,
        depth: int,
        rank: Var | None = None,
        remembering: Remembering | None = None,
        local: _Local | None = None,
        **static: Any,
    ) -> Var:
        x, before, total, tables = embedded(
            b,
            config.embedding,
            norm,
            config.weights,
            idx,
            entries,
            conditions,
            width,
            static,
            None if local is None else local.at,
        )
        if config.dropout:
            x = b.dropout(x, p=config.dropout, out="x")
        tokens = idx.shape[1]
        after = total - static["tokens"] - before
        how = remembering if local is None else local.recalling(b, before, after)
        if rank is not None:
            x = _kept(b, x, rank, before, static["known"])
        sizes, parts = config.block.own(width, static), (mixer, feed_forward, norm, config.weights)
        if how is not None:
            x = remembered_blocks(b, how, condition, parts, x, depth, config.long_skips, width, sizes)
        elif config.long_skips:
            x = long_skips(b, block, x, (), depth // 2, width, sizes)[-1]
        else:
            seen = _seen(b, idx, end, before, int(x.shape[1]))
            for name in items("blocks", depth):
                x = b.sub(name, block, x, *seen, dim=width, **sizes)
        if not condition.norm_after:
            x = norm.apply(b, "norm", x)
        if config.decoder is not None:
            at = None if local is None else local.at
            x = decoded(b, config.decoder.heads, x, idx, rank, before, total, how, at, static)
        if before or total > static["tokens"]:
            count = static["tokens"] if local is None else tokens
            x = b.slice(x, axis=1, start=before, stop=before + count, out="x")
        return logits(b, config.readout, norm, config.weights, x, tables, tokens, width, static)

    def decoded(
        b: Builder,
        count: int,
        x: Var,
        idx: Var,
        rank: Var | None,
        before: int,
        total: Any,
        how: Remembering | Recalling | None,
        at: Var | None,
        static: Any,
    ) -> Var:
        width, depth, heads = static["decoder_width"], static["decoder_depth"], static["decoder_heads"]
        x = dense(b, "decoder_embed", x, width, True, config.weights, out="x")
        front = blank = b.slice(x, axis=1, start=0, stop=1, out="blank")
        if before > 1:
            front = b.slice(x, axis=1, start=0, stop=before, out="front")
        x = b.slice(x, axis=1, start=before, stop=x.shape[1], out="x")
        if rank is not None:
            # Tokens that were not given to the encoder are masked, so what they get here does not matter.
            left = b.op("sub", rank, idx.shape[1] - static["known"], out="left")
            x = rows(b, x, b.maximum(left, 0, out="place"), "x")
        hidden = b.equal(idx, b.scalar(static["vocabulary"] + static.get("labels", 0), idx), out="hidden")
        x = b.where(b.reshape(hidden, shape=(*hidden.shape, 1)), blank, x, out="x")
        x = b.concat(front, x, axis=1, out="x")
        positions = b.param("decoder_pos", f32(1, total, width), "normal", std=0.02)
        x = x + (positions if at is None else placed(b, positions, at, before, static["tokens"], 0, total))
        attention = mixer.model_copy(update={"heads": count})
        body = condition.block(attention, feed_forward, norm, config.weights)
        own = {"heads": heads, **feed_forward.static(width)}
        if how is not None:
            parts = (attention, feed_forward, norm, config.weights)
            x = remembered_blocks(b, how, condition, parts, x, depth, False, width, own, "decoder_blocks")
            return x if condition.norm_after else norm.apply(b, "decoder_norm", x)
        for name in items("decoder_blocks", depth):
            x = b.sub(name, body, x, dim=width, **own)
        return x if condition.norm_after else norm.apply(b, "decoder_norm", x)

    size = "tokens*splits" if config.splits > 1 else "tokens"

    @module_class("Bert", idx=f"B T={size}")
    def forward(b: Builder, idx: Var, *conditions: Var, **static: Any) -> Var:
        """Logits of every token from those that are not masked."""
        return network(b, idx, conditions, **static)

    @module_class("Bert", "forward_kept", idx=f"B T={size}", rank=f"B T={size}")
    def forward_kept(b: Builder, idx: Var, rank: Var, *conditions: Var, **static: Any) -> Var:
        """The same, but the encoder takes only the `known` tokens of the highest ranks; the others are masked."""
        return network(b, idx, conditions, rank=rank, **static)

    @module_class("Bert", "remember", idx=f"B T={size}")
    def remember(b: Builder, idx: Var, *conditions: Var, **static: Any) -> tuple[Var, ...]:
        """As forward; and the keys and values of every attention."""
        remembering = Remembering()
        return network(b, idx, conditions, remembering=remembering, **static), *remembering.caches

    @module_class(
        "Bert",
        "recall",
        idx="B G=recalled",
        counted="B G=recalled",
        others="B T=tokens",
        position="B G=recalled",
    )
    def recall(b: Builder, idx: Var, counted: Var, others: Var, position: Var, *operands: Var, **static: Any) -> Var:
        """Logits of some tokens, from these and what is remembered of the others."""
        count = len(ports_of(entries))
        local = _Local(position, counted, others, operands[count:])
        return network(b, idx, operands[:count], local=local, **static)

    return forward, forward_kept, remember, recall


def _seen(b: Builder, idx: Var, end: int | None, before: int, total: int) -> tuple[Var, ...]:
    """(bool[B, 1, 1, n + T],): tokens up to the end of a text, and those of conditions; () if texts do not end."""
    counts = counted(b, idx, end)
    if counts is None:
        return ()
    counts = b.pad(counts, axis=1, before=before, after=total - before - int(idx.shape[1]), value=1.0, out="counts")
    return (b.reshape(b.greater(counts, 0.5), shape=(idx.shape[0], 1, 1, counts.shape[1]), out="seen"),)


def _kept(b: Builder, x: Var, rank: Var, before: int, known: Any) -> Var:
    """The first `before` tokens of x [B, n + T, D] and the `known` ones of the highest ranks, in their order."""
    tokens = rank.shape[1]
    order = b.argsort(rank, out="order")
    kept = b.slice(order, axis=1, start=tokens - known, stop=tokens, out="kept")
    front = b.slice(x, axis=1, start=0, stop=before, out="front")
    return b.concat(front, rows(b, x, kept + before, "x"), axis=1, out="x")


Parts = tuple[Mixer, FeedForward, Norm, str]
"""The parts of a block, and the initialisation of its linear layers."""


class Remembering:
    """Blocks on all tokens; `caches` collects the keys and values of each, f32[B, H, N, D / H]."""

    def __init__(self) -> None:
        self.caches: list[Var] = []

    def body(self, condition: InContext, parts: Parts) -> BlockBody:
        return condition.block(*parts, BlockForm("begin", plain=True))

    def run(self, b: Builder, name: str, body: BlockBody, operands: Sequence[Var], dim: Any, sizes: Any) -> Var:
        x, keys, values = b.sub(name, body, *operands, out="x keys values", dim=dim, **sizes)
        self.caches += [keys, values]
        return x


class Recalling:
    """Blocks on a few tokens, which see themselves and those `caches` where `mask` bool[B, 1, 1, S + N] is true."""

    def __init__(self, caches: Sequence[Var], mask: Var) -> None:
        self.left, self.mask = list(caches), mask

    def body(self, condition: InContext, parts: Parts) -> BlockBody:
        return condition.block(*parts, BlockForm("extend", masked=True, plain=True))

    def run(self, b: Builder, name: str, body: BlockBody, operands: Sequence[Var], dim: Any, sizes: Any) -> Var:
        keys, values, *self.left = self.left
        own = (*operands, keys, values, self.mask)
        x, *_ = b.sub(name, body, *own, out="x keys values", dim=dim, **sizes)
        return x


def remembered_blocks(
    b: Builder,
    how: Remembering | Recalling,
    condition: InContext,
    parts: Parts,
    x: Var,
    depth: int,
    skips: bool,
    dim: Any,
    sizes: Mapping[str, Any],
    prefix: str = "blocks",
) -> Var:
    """x [B, N, D] through so many blocks; with `skips` those of a U-ViT, as many before the middle one as after it."""
    body, kept = how.body(condition, parts), list[Var]()
    if not skips:
        for i in range(int(depth)):
            x = how.run(b, f"{prefix}.{i}", body, (x,), dim, sizes)
        return x
    half = int(depth) // 2
    for i in range(half):
        x = how.run(b, f"in_blocks.{i}", body, (x,), dim, sizes)
        kept.append(x)
    x = how.run(b, "mid_block", body, (x,), dim, sizes)
    for i in range(half):
        x = how.run(b, f"out_blocks.{i}", skip_block(body), (x, kept.pop()), dim, sizes)
    return x
