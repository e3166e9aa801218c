"""A transformer over continuous tokens that predicts Gaussian mixtures, causal or masked: GIVT.

It is no option of `token_transformer`, whose tokens are indices.
Symbols: B batch, T tokens, C channels of a token, D width, P numbers of a mixture, H heads, d channels of a head.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from latentc.components.backbone import Backbone, add_method
from latentc.components.blocks.block import Block
from latentc.components.blocks.norms.layer_norm import LayerNorm
from latentc.components.capabilities import Capability, Role
from latentc.components.condition import Entry, Form, ports_of
from latentc.components.contract import Network, Port
from latentc.components.decoding import DECODE
from latentc.components.parts import Problem, Refusal, Spec, Weights, dense, table
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, i64, items, module_class
from latentc.ir.types import B, Named
from latentc.systems.givt.mixtures_parts import Mixture
from latentc.systems.givt.remembered_context import RememberedContext


class MixtureTransformer(Backbone):
    """Predicts a Gaussian mixture for every continuous token (GIVT, Tschannen et al. 2023, arXiv:2312.02116).

    Causal: `forward`: x f32[B, T - 1, C], y i64[B] -> f32[B, T, P], row i for token i given the previous ones;
    `prefill`: y -> f32[B, P], caches; `decode`: token f32[B, C], position i64[], caches -> f32[B, P], caches, a pair of
    keys and values f32[B, H, T, d] per block. Masked: `forward`: x f32[B, T, C], mask f32[B, T] (1: hidden), y ->
    f32[B, T, P]. `remembered_context` blocks also attend to an encoder's features f32[B, L, E], whose keys and values
    follow the caches; then the label is optional.
    """

    kind: Literal["mixture_transformer"]
    style: Literal["causal", "masked"] = Field(
        "causal", description="in order, or arbitrary tokens from arbitrary others"
    )
    width: int = Field(gt=0, le=65_536, multiple_of=2, description="inner channels of a token (D)")
    depth: int = Field(gt=0, le=512, description="number of blocks")
    mixture: Mixture = Field(Mixture(), description="distribution predicted for a token")
    joined_mask: bool = Field(
        True, description="half of the channels mark whether a token is hidden; false: hidden tokens are replaced"
    )
    block: Block = Field(description="the repeated block; causal in the causal style")
    patch: tuple[Annotated[int, Field(gt=0, le=64)], Annotated[int, Field(gt=0, le=64)]] = Field(
        (1, 1), description="rows and columns of the data that form one token"
    )
    weights: Weights = Field("xavier", description="initialisation of linear layers")
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "mixture_transformer",
        "width": 16,
        "depth": 1,
        "mixture": {"components": 2},
        "block": {
            "mixer": {"kind": "attention", "heads": 2, "causal": True, "bias": False},
            "feed_forward": {"kind": "gelu_mlp", "approximate": "tanh"},
            "norm": {"kind": "layer_norm", "affine": True, "bias": False},
            "condition": {"kind": "in_context"},
        },
    }

    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"next_mixture", "masked_mixtures"})
    TAKES: ClassVar[tuple[Form, ...]] = ("tokens", "array")

    @property
    def specials(self) -> int:
        """Rows of the label table between those of the classes and that of no class."""
        return 0 if self.style == "causal" else 3 if self.joined_mask else 1

    def sequence(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """Number of tokens, and channels of a token, of data of that shape [C, H, W], or [C, T]."""
        if len(shape) == 2:
            return shape[1], shape[0]
        (channels, height, width), (rows, columns) = shape, self.patch
        return height // rows * (width // columns), channels * rows * columns

    def provides(self, spec: Spec) -> frozenset[Capability]:
        return self.PROVIDES - {"masked_mixtures" if self.style == "causal" else "next_mixture"}

    def problems(self, spec: Spec) -> Iterator[Problem]:
        if spec.data.shape is None or len(spec.data.shape) not in (2, 3):
            yield Problem((), f"a {self.kind} takes arrays [C, H, W] or [C, T], but the data has {spec.data.words}")
        elif len(spec.data.shape) == 2:
            if self.patch != (1, 1):
                yield Problem(("patch",), "each vector of a sequence is one token", "leave it out")
        elif spec.data.shape[1] % self.patch[0] or spec.data.shape[2] % self.patch[1]:
            message = f"patches of {list(self.patch)} do not tile {spec.data.shape[1]} by {spec.data.shape[2]}"
            yield Problem(("patch",), message)
        if self.style == "causal" and len(spec.data.shape or ()) in (2, 3) and self.sequence(spec.data.shape)[0] == 1:  # type: ignore[arg-type]
            yield Problem(
                (), "a causal mixture_transformer predicts a token from those before it, but there is only one"
            )
        yield from self.block.problems_of_width(self.width)
        context = self.block.parts()[3].takes_tokens
        yield from self.block.problems_of_condition(self.kind, None, tokens=True)
        if self.style == "causal":
            yield from self.block.problems_of_decoding("a causal mixture_transformer predicts the next token")
        elif self.block.parts()[0].ordered:
            yield Problem(
                ("block", "mixer"),
                "the masked style sees all tokens, so its mixer must not be causal",
                "set `causal: false`",
            )
        yield from self.problems_of_conditions(spec)
        labels = [entry for entry in self.entries(spec) if entry.form == "tokens"]
        arrays = [entry for entry in self.entries(spec) if entry.form != "tokens"]
        if (
            len(labels) + context == 0
            or len(labels) > 1
            or any(len(e.ports) != 1 or e.ports[0].values is None for e in labels)
        ):
            message = "a mixture_transformer begins with one class, given as an index"
            mend = "list only that label in `conditions`; if there are no classes, set `data.classes: 1`"
            yield Problem((), message, mend)
        if len(arrays) != context or any(len(e.ports) != 1 or e.ports[0].type.rank != 3 for e in arrays):
            message = (
                f"blocks of `{self.block.parts()[3].kind}` attend to {int(context)} sequences of "
                f"features [L, E], but there are {len(arrays)}"
            )
            mend = "use `block.condition: {kind: cross_attention}` and one condition `encoded` with `form: array`"
            yield Problem(("block", "condition"), message, mend)

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        assert spec.data.shape is not None
        (length, channels), entries = self.sequence(spec.data.shape), self.entries(spec)
        cond = ports_of(entries)
        labels = next((port.values for port in cond if port.values is not None), 1)
        context = next((port.type.shape for port in cond if port.values is None), None)
        static: dict[str, Any] = {
            "tokens": length,
            "channels": channels,
            "width": self.width,
            "depth": self.depth,
            "labels": labels,
            "numbers": self.mixture.size(channels),
            **({} if context is None else {"context_dim": context[2]}),
            **self.block.static(self.width),
        }
        if self.style == "masked":
            ports = (
                Port("x", f32(B, Named(length, "T"), channels), "state"),
                Port("mask", f32(B, Named(length, "T")), "mask"),
                *cond,
            )
            methods = {"forward": add_method(mb, name, "forward", _masked(self, entries), ports, static)}
            return Network(name, methods, self.provides(spec))
        heads, size = static["heads"], self.width // static["heads"]
        cache_type = f32(B, static.get("kv_heads", heads), Named(length, "T"), size)
        caches = (Port("caches", cache_type, "cache"),) * (2 * self.depth)
        if context is not None:
            caches += (Port("memories", f32(B, heads, context[1], size), "cache"),) * (2 * self.depth)
        grown: tuple[Role, ...] = ("output", *(port.role for port in caches))
        forward, prefill, decode = _causal(self, entries)
        token = (Port("token", f32(B, channels), "token"), Port("position", i64(), "position"), *caches)
        methods = {
            "forward": add_method(
                mb, name, "forward", forward, (Port("x", f32(B, length - 1, channels), "state"), *cond), static
            ),
            "prefill": add_method(mb, name, "prefill", prefill, cond, static, grown),
            "decode": add_method(mb, name, "decode", decode, token, static, grown),
        }
        return Network(name, methods, self.provides(spec))


class _Shared:
    """The parts that methods share."""

    def __init__(self, config: MixtureTransformer, entries: tuple[Entry, ...]) -> None:
        mixer, feed_forward, norm, self.condition = config.block.parts()
        self.config, self.parts = config, (mixer, feed_forward, norm, config.weights)
        ports = ports_of(entries)
        self.is_label = [port.values is not None for port in ports]
        self.shapes = {port.name: "B L context_dim" for port in ports if port.values is None}
        self.null = next((port.null for port in ports if port.values is not None), None)

    def split(self, operands: Sequence[Var]) -> tuple[Var | None, tuple[Var, ...]]:
        """The label, if there is one, and the features that blocks attend to, if there are some."""
        label = next((x for x, is_label in zip(operands, self.is_label, strict=True) if is_label), None)
        return label, tuple(x for x, is_label in zip(operands, self.is_label, strict=True) if not is_label)

    def rows(self, b: Builder, width: Any, labels: Any) -> Var:
        """f32[labels + specials, D]: embeddings of the classes, of what stands for hidden tokens, of no class."""
        return table(b, "label_emb.weight", labels + self.config.specials, width, "unit_normal")

    def label(self, b: Builder, y: Var | None, like: Var, width: Any, labels: Any) -> Var:
        """f32[B, 1, D]: the label as first token; that of none has the last row. Without labels, the first row, for the
        batch of `like`.
        """
        if y is None:
            start = b.slice(self.rows(b, width, labels), axis=0, start=0, stop=1, out="start")
            start = b.reshape(start, shape=(1, 1, width), out="start")
            return b.broadcast_to(start, like, shape=(like.shape[0], 1, width), out="start")
        if self.config.specials and self.null is not None:
            none = b.cast(b.equal(y, self.null), to="i64", out="none")
            y = b.add(y, b.op("mul", none, self.config.specials), out="row")
        x = b.embedding(self.rows(b, width, labels), y, out="label")
        return b.reshape(x, shape=(y.shape[0], 1, width), out="label")

    def embed(self, b: Builder, x: Var, width: Any) -> Var:
        return dense(b, "token_emb", x, width, True, self.config.weights, out="x")

    def positions(self, b: Builder, count: Any, width: Any) -> Var:
        return b.param("pos_embed", f32(1, count, width), "normal", std=0.02)

    def sizes(self, width: Any, static: Mapping[str, Any]) -> dict[str, Any]:
        """The static arguments of blocks."""
        context = {"context_dim": static["context_dim"]} if "context_dim" in static else {}
        return {"dim": width, **context, **self.config.block.own(width, static)}

    def run(self, b: Builder, x: Var, context: Sequence[Var], depth: Any, static: Mapping[str, Any]) -> Var:
        block = self.condition.block(*self.parts)
        for name in items("blocks", depth):
            x = b.sub(name, block, x, *context, **self.sizes(x.shape[2], static))
        return x

    def remembered(self, b: Builder, context: Sequence[Var], depth: Any, sizes: Mapping[str, Any]) -> list[Var]:
        """Keys and values of the features in every block; none without features."""
        if not context:
            return []
        block, found = self.remembering().remember_block(self.config.weights), list[Var]()
        for i in range(int(depth)):
            found += b.sub(f"blocks.{i}", block, *context, out="keys values", **sizes)
        return found

    def remembering(self) -> RememberedContext:
        """The condition of blocks that attend to features. Refusal: another."""
        if not isinstance(self.condition, RememberedContext):
            message = (
                f"a causal {self.config.kind} keeps keys and values of features, but `{self.condition.kind}` cannot"
            )
            raise Refusal(message, "use `{kind: remembered_context}`", part=self.condition)
        return self.condition

    def step(
        self, b: Builder, x: Var, at: tuple[Var, ...], caches: Sequence[Var], memories: Sequence[Var], sizes: Any
    ) -> tuple[Var, list[Var]]:
        """One token through all blocks, and the grown caches; `at`: its position and a mask."""
        grown = list[Var]()
        block = self.remembering().recall_block(*self.parts) if memories else self.condition.block(*self.parts, DECODE)
        for i in range(len(caches) // 2):
            operands = (*memories[2 * i : 2 * i + 2], *at, *caches[2 * i : 2 * i + 2])
            x, keys, values = b.sub(f"blocks.{i}", block, x, *operands, out="x keys values", **sizes)
            grown += [keys, values]
        return x, grown

    def head(self, b: Builder, x: Var, numbers: Any) -> Var:
        """Raw numbers of the mixtures."""
        x = LayerNorm(kind="layer_norm", eps=1e-6, affine=True).apply(b, "norm", x)
        return dense(b, "head", x, numbers, True, "zeros", out="mixture")


@cache
def _masked(config: MixtureTransformer, entries: tuple[Entry, ...]) -> BlockBody:
    shared = _Shared(config, entries)

    @module_class("MixtureTransformer", x="B T=tokens channels", mask="B T=tokens", **shared.shapes)
    def forward(
        b: Builder,
        x: Var,
        mask: Var,
        *conditions: Var,
        tokens: int,
        channels: int,
        width: int,
        depth: int,
        labels: int,
        **static: Any,
    ) -> Var:
        """Mixtures of all tokens from those that are not hidden and the conditions."""
        y, context = shared.split(conditions)
        batch, rows = x.shape[0], shared.rows(b, width, labels)
        first = labels if shared.null is None else labels - 1  # the classes without the null class

        def special(i: int) -> Var:
            row = b.slice(rows, axis=0, start=first + i, stop=first + i + 1)
            return b.reshape(row, shape=(1, 1, width), out="special")

        hidden = b.reshape(b.greater(mask, 0.5), shape=(batch, x.shape[1], 1), out="hidden")
        x = shared.embed(b, x, width)
        if config.joined_mask:  # every second channel of each
            marks = b.where(hidden, special(0), special(1), out="marks")
            x = b.where(hidden, special(2), x, out="x")
            halves = [
                b.reshape(
                    b.slice(b.reshape(v, shape=(batch, tokens, width // 2, 2)), axis=3, start=0, stop=1),
                    shape=(batch, tokens, width // 2),
                )
                for v in (b.broadcast_to(marks, x, shape=(batch, tokens, width)), x)
            ]
            x = b.concat(*halves, axis=2, out="x")
        else:
            x = b.where(hidden, special(0), x, out="x")
        x = b.concat(shared.label(b, y, x, width, labels), x, axis=1, out="x")
        x = x + shared.positions(b, tokens + 1, width)
        x = shared.run(b, x, context, depth, static)
        return b.slice(shared.head(b, x, static["numbers"]), axis=1, start=1, stop=tokens + 1, out="mixture")

    return forward


@cache
def _causal(config: MixtureTransformer, entries: tuple[Entry, ...]) -> tuple[BlockBody, BlockBody, BlockBody]:
    """`forward`, `prefill`, `decode`."""
    shared = _Shared(config, entries)

    def step(
        b: Builder,
        x: Var,
        position: Var,
        caches: Sequence[Var],
        memories: Sequence[Var],
        tokens: Any,
        width: Any,
        static: Mapping[str, Any],
    ) -> tuple[Var, ...]:
        """One token x [B, 1, D] at `position` through all blocks: its mixture, the grown caches and the memories."""
        here = b.take(shared.positions(b, tokens, width), position, axis=1)
        x = x + b.reshape(here, shape=(1, 1, width))
        seen = b.less_equal(b.arange(tokens), position)
        at = (position, b.reshape(seen, shape=(1, 1, 1, tokens), out="mask"))
        x, grown = shared.step(b, x, at, caches, memories, shared.sizes(width, static))
        x = shared.head(b, x, static["numbers"])
        return b.reshape(x, shape=(x.shape[0], x.shape[2]), out="mixture"), *grown, *memories

    @module_class("MixtureTransformer", x="B tokens-1 channels", **shared.shapes)
    def forward(
        b: Builder,
        x: Var,
        *conditions: Var,
        tokens: int,
        channels: int,
        width: int,
        depth: int,
        labels: int,
        **static: Any,
    ) -> Var:
        """Mixtures of every token given the conditions and the tokens before it."""
        y, context = shared.split(conditions)
        x = b.concat(shared.label(b, y, x, width, labels), shared.embed(b, x, width), axis=1, out="x")
        x = b.reshape(x, shape=(x.shape[0], Named(tokens, "T"), width), out="x")
        x = x + shared.positions(b, Named(tokens, "T"), width)
        return shared.head(b, shared.run(b, x, context, depth, static), static["numbers"])

    @module_class("MixtureTransformer", "prefill", **shared.shapes)
    def prefill(
        b: Builder, *conditions: Var, tokens: int, channels: int, width: int, depth: int, labels: int, **static: Any
    ) -> tuple[Var, ...]:
        """The mixture of the first token, and the caches with the first label in them."""
        length, heads = Named(tokens, "T"), static.get("kv_heads", static["heads"])
        y, context = shared.split(conditions)
        x = shared.label(b, y, conditions[0], width, labels)
        shape = (heads, length, width // static["heads"])
        caches = [b.full(x, shape=shape, value=0.0, dtype="f32", out="cache") for _ in range(2 * int(depth))]
        memories = shared.remembered(b, context, depth, shared.sizes(width, static))
        return step(b, x, b.constant(np.int64(0)), caches, memories, length, width, static)

    kv = "kv_heads" if "kv_heads" in config.block.static(config.width) else "heads"

    @module_class(
        "MixtureTransformer", "decode", caches=f"B {kv} T=tokens width//heads", memories="B heads L width//heads"
    )
    def decode(
        b: Builder,
        token: Var,
        position: Var,
        *caches: Var,
        tokens: int,
        channels: int,
        width: int,
        depth: int,
        labels: int,
        **static: Any,
    ) -> tuple[Var, ...]:
        """Takes token `position - 1`; gives the mixture of token `position`, and the grown caches."""
        x = shared.embed(b, b.reshape(token, shape=(token.shape[0], 1, channels)), width)
        own, memories = caches[: 2 * int(depth)], caches[2 * int(depth) :]
        return step(b, x, position, own, memories, Named(tokens, "T"), width, static)

    return forward, prefill, decode
