"""A masked autoencoder over continuous tokens: the trunk of MAR.

Symbols: B batch, T tokens of a sample, C channels of a token, D width, R buffer tokens that hold the condition, K most
known tokens of a sample in training, G tokens that are evaluated anew against what is remembered of the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache, reduce
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from latentc.components.backbone import Backbone, add_method
from latentc.components.blocks.block import Block
from latentc.components.blocks.conditions.in_context import InContext
from latentc.components.blocks.norms.layer_norm import LayerNorm
from latentc.components.condition import Entry, Form, ports_of, with_operands
from latentc.components.contract import Capability, Network, Port, Role
from latentc.components.kit.tokens import rows
from latentc.components.objective import Objective
from latentc.components.parts import Problem, Weights, dense
from latentc.components.sampler import Sampler
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, i64, items, module_class
from latentc.ir.types import B, Named

if TYPE_CHECKING:
    from latentc.spec.schema import Spec


class MaskedAutoencoder(Backbone):
    """Encodes the known tokens and decodes features of all of them (MAR, Li et al. 2024, arXiv:2406.11838).

    `forward`: x f32[B, T, C], mask f32[B, T] (1 where a token is hidden), the conditions -> f32[B, T, D]. The
    encoder's attention leaves hidden tokens out, so that any number of them may be known. `forward_known` returns the
    same if at most K tokens of each sample are known, and encodes only R + K tokens. Training calls it. `remember` and
    `recall` are for samplers that reuse keys and values of the tokens that they leave as they are (ReCAP).
    """

    kind: Literal["masked_autoencoder"]
    width: int = Field(gt=0, le=65_536, description="channels of a token inside (D)")
    depth: int = Field(gt=0, le=512, description="blocks of the encoder, and of the decoder")
    patch: int = Field(1, gt=0, le=1_024, description="side of the patch of the data that is one token")
    buffer: int = Field(64, gt=0, le=65_536, description="tokens before the sequence that hold the condition (R)")
    block: Block = Field(description="the block of encoder and decoder")
    weights: Weights = Field("xavier", description="how linear layers start")
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "masked_autoencoder",
        "width": 16,
        "depth": 1,
        "buffer": 2,
        "block": {
            "mixer": {"kind": "attention", "heads": 2},
            "feed_forward": {"kind": "gelu_mlp", "approximate": "none"},
            "norm": {"kind": "layer_norm", "affine": True},
            "condition": {"kind": "in_context"},
        },
    }

    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"masked_features"})
    TAKES: ClassVar[tuple[Form, ...]] = ("vector",)

    def problems(self, spec: Spec) -> Iterator[Problem]:
        if spec.data.shape is None or len(spec.data.shape) != 3:
            message = f"a masked_autoencoder takes arrays [C, H, W], but the data has {spec.data.words}"
            yield Problem((), message, "use a masked_transformer for tokens")
        else:
            _, height, width = spec.data.shape
            if height % self.patch or width % self.patch:
                yield Problem(("patch",), f"patches of {self.patch} do not tile {height} by {width}")
        yield from self.block.problems_of_width(self.width)
        if not isinstance(self.block.condition, InContext):
            message = "a masked_autoencoder has its condition in the buffer tokens"
            yield Problem(("block", "condition"), message, "use `{kind: in_context}`")
        if not self.told(spec):
            yield Problem((), "a masked_autoencoder needs a condition", "add `conditioning.class: {kind: label}`")
        if isinstance(spec.sampler, Sampler) and spec.sampler.recalls(self._count(spec)) is not None:
            yield from self._problems_of_recall()
        yield from self.problems_of_conditions(spec)

    def _problems_of_recall(self) -> Iterator[Problem]:
        if not self.block.parts()[0].recalls:
            message = "the sampler reuses keys and values, which this mixer cannot give"
            yield Problem(("block", "mixer"), message, "use `{kind: attention}` as it is, or leave out `sampler.reuse`")

    def _count(self, spec: Spec) -> int:
        """Tokens of a sample, as many as there would be if the data were right."""
        shape = spec.data.shape
        return 1 if shape is None or len(shape) != 3 else max(self.tokens(spec)[0], 1)

    def token_features(self, spec: Spec) -> tuple[int, int] | None:
        return self.tokens(spec)[1], self.width

    def tokens(self, spec: Spec) -> tuple[int, int]:
        """(T, C)."""
        assert spec.data.shape is not None
        channels, height, width = spec.data.shape
        return (height // self.patch) * (width // self.patch), channels * self.patch**2

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        length, channels = self.tokens(spec)
        most = spec.objective.most_known(length) if isinstance(spec.objective, Objective) else length
        shortens = most < length
        recall = spec.sampler.recalls(length) if isinstance(spec.sampler, Sampler) else None
        static: dict[str, Any] = {
            "tokens": length,
            **({"known": most} if shortens else {}),
            **({"recalled": recall.tokens} if recall is not None else {}),
            "channels": channels,
            "width": self.width,
            "depth": self.depth,
            "buffer": self.buffer,
            **self.block.static(self.width),
            **self.condition_sizes(spec),
        }
        entries, tokens = self.entries(spec), Named(length, "T")
        ports = (
            Port("x", f32(B, tokens, channels), "state"),
            Port("mask", f32(B, tokens), "mask"),
            *ports_of(entries),
        )
        forward, forward_known = _methods(self, entries)
        methods = {"forward": add_method(mb, name, "forward", forward, ports, static)}
        if shortens:
            methods["forward_known"] = add_method(mb, name, "forward_known", forward_known, ports, static)
        if recall is not None:
            bodies = _recalling(self, entries, recall.condition)
            heads = static.get("kv_heads", static["heads"])
            cache = f32(B, heads, self.buffer + length, self.width // static["heads"])
            names = ("caches", *(f"caches_{i}" for i in range(2, 4 * self.depth + 1)))
            kept = [Port(key, cache, "cache") for key in names]
            local = Named(recall.tokens, "G")
            some = (
                Port("x", f32(B, local, channels), "state"),
                *(Port(key, f32(B, local), "mask") for key in ("unknown", "counted")),
                *(Port(key, f32(B, tokens), "mask") for key in ("remembered", "others")),
                Port("position", i64(B, local), "position"),
                *ports_of(entries),
                *kept,
            )
            roles: tuple[Role, ...] = ("output", *(port.role for port in kept))
            methods["remember"] = add_method(mb, name, "remember", bodies[0], ports, static, roles)
            methods["recall"] = add_method(mb, name, "recall", bodies[1], some, static)
        return Network(name, methods, self.PROVIDES)


class _Parts:
    """What the methods share: embeddings, encoder, decoder."""

    def __init__(self, config: MaskedAutoencoder, entries: tuple[Entry, ...]) -> None:
        mixer, feed_forward, self.norm, condition = config.block.parts()
        assert isinstance(condition, InContext)
        self.config, self.entries = config, entries
        self.parts = mixer, feed_forward, self.norm, config.weights
        self.condition = condition

    def told(self, b: Builder, conditions: tuple[Var, ...], like: Var, width: int, buffer: int, static: Any) -> Var:
        """f32[B, R, D]: the buffer tokens, each the sum of the embedded conditions."""
        embedded = [
            entry.vector(b, f"{entry.ports[0].name}_embedder", operands, width, static)
            for entry, operands in with_operands(self.entries, conditions)
        ]
        c = reduce(lambda sum_, vector: b.op("add", sum_, vector, out="c"), embedded)
        batch = like.shape[0]
        return b.broadcast_to(b.reshape(c, shape=(batch, 1, width)), like, shape=(batch, buffer, width), out="c")  # type: ignore[no-any-return]

    def normed(self, b: Builder, x: Var) -> Var:
        return LayerNorm(kind="layer_norm", eps=1e-6, affine=True).apply(b, "z_proj_ln", x)

    def linear(self, b: Builder, name: str, x: Var, width: int, out: str = "") -> Var:
        return dense(b, name, x, width, True, self.config.weights, out=out)

    def decoder_input(self, b: Builder, x: Var) -> Var:
        width = x.shape[2]
        return self.linear(b, "decoder_embed", self.norm.apply(b, "encoder_norm", x), width, out="x")

    def shown(self, b: Builder, x: Var, seen: Var) -> Var:
        """x [B, T, D] with the mask token where `seen` bool[B, T] is false."""
        mask_token = b.param("mask_token", f32(1, 1, x.shape[2]), "normal", std=0.02)
        return b.where(b.reshape(seen, shape=(*seen.shape, 1)), x, mask_token, out="x")  # type: ignore[no-any-return]

    def blocks(self, b: Builder, part: str, x: Var, mask: tuple[Var, ...], depth: int, sizes: Any) -> Var:
        condition = self.condition
        block = condition.masked_block(*self.parts) if mask else condition.block(*self.parts)
        for name in items(f"{part}_blocks", depth):
            x = b.sub(name, block, x, *mask, dim=x.shape[2], **sizes)
        return x

    def remembered(
        self, b: Builder, part: str, x: Var, mask: tuple[Var, ...], depth: int, sizes: Any
    ) -> tuple[Var, list[Var]]:
        """The blocks, and the keys and values of each."""
        block, caches = self.condition.begin_block(*self.parts, bool(mask), not mask), list[Var]()
        for i in range(int(depth)):
            name = f"{part}_blocks.{i}"
            x, keys, values = b.sub(name, block, x, *mask, out="x keys values", dim=x.shape[2], **sizes)
            caches += [keys, values]
        return x, caches

    def recalled(
        self, b: Builder, part: str, x: Var, mask: Var, caches: Sequence[Var], masked: bool, sizes: Any
    ) -> Var:
        """The blocks over tokens that see themselves and what is remembered."""
        block = self.condition.extend_block(*self.parts, True, not masked)
        for i in range(len(caches) // 2):
            cache, name = caches[2 * i : 2 * i + 2], f"{part}_blocks.{i}"
            x, *_ = b.sub(name, block, x, *cache, mask, out="x keys values", dim=x.shape[2], **sizes)
        return x


def _position(b: Builder, name: str, count: Any, width: Any) -> Var:
    return b.param(name, f32(1, count, width), "normal", std=0.02)  # type: ignore[no-any-return]


def _keys(b: Builder, seen: Var) -> Var:
    """bool[B, 1, 1, T]: a mask of attention to the tokens that are seen [B, T]."""
    batch, count = seen.shape
    return b.reshape(seen, shape=(batch, 1, 1, count), out="visible")  # type: ignore[no-any-return]


_SHAPES = {"x": "B T=tokens channels", "mask": "B T=tokens"}


@cache
def _methods(config: MaskedAutoencoder, entries: tuple[Entry, ...]) -> tuple[BlockBody, BlockBody]:
    """`forward` and `forward_known`."""
    parts = _Parts(config, entries)

    def features(
        b: Builder,
        x: Var,
        mask: Var,
        *conditions: Var,
        tokens: int,
        channels: int,
        width: int,
        depth: int,
        buffer: int,
        known: int | None = None,
        **static: Any,
    ) -> Var:
        batch, total = x.shape[0], buffer + tokens
        length = total if known is None else buffer + known
        sizes = config.block.own(width, static)
        c = parts.told(b, conditions, x, width, buffer, static)
        x = b.concat(c, parts.linear(b, "z_proj", x, width), axis=1, out="x")
        x = x + _position(b, "encoder_pos", total, width)
        front = b.full(mask, shape=(buffer,), value=0.0, dtype="f32", out="front")
        hidden = b.concat(front, mask, axis=1, out="hidden")
        seen = visible = b.less(hidden, 0.5, out="seen")
        if known is not None:
            order = b.argsort(hidden, out="order")  # those that are seen first, each kind in its own order
            kept = b.slice(order, axis=1, start=0, stop=length, out="kept")
            visible = b.take_along(seen, kept, axis=1, out="visible")
            x = rows(b, x, kept, "x")
        x = parts.normed(b, x)
        visible = b.reshape(visible, shape=(batch, 1, 1, length), out="visible")
        x = parts.blocks(b, "encoder", x, (visible,), depth, sizes)
        x = parts.decoder_input(b, x)
        if known is not None:
            place = b.minimum(b.argsort(order), length - 1, out="place")  # where each token went
            x = rows(b, x, place, "x")
        x = parts.shown(b, x, seen)
        x = x + _position(b, "decoder_pos", total, width)
        x = parts.blocks(b, "decoder", x, (), depth, sizes)
        x = b.slice(parts.norm.apply(b, "decoder_norm", x), axis=1, start=buffer, stop=total, out="x")
        return x + _position(b, "diffusion_pos", tokens, width)

    @module_class("MaskedAutoencoder", **_SHAPES)
    def forward(
        b: Builder, x: Var, mask: Var, *conditions: Var, known: int | None = None, recalled: int = 0, **static: Any
    ) -> Var:
        """Features of every token from those that are not hidden."""
        return features(b, x, mask, *conditions, **static)

    @module_class("MaskedAutoencoder", "forward_known", **_SHAPES)
    def forward_known(b: Builder, x: Var, mask: Var, *conditions: Var, recalled: int = 0, **static: Any) -> Var:
        """The same features if at most `known` tokens of a sample are not hidden: the encoder takes no more of them."""
        return features(b, x, mask, *conditions, **static)

    return forward, forward_known


@cache
def _recalling(config: MaskedAutoencoder, entries: tuple[Entry, ...], condition: bool) -> tuple[BlockBody, BlockBody]:
    """`remember` and `recall`; `condition`: the buffer tokens are recalled, too."""
    parts = _Parts(config, entries)

    @module_class("MaskedAutoencoder", "remember", **_SHAPES)
    def remember(
        b: Builder,
        x: Var,
        mask: Var,
        *conditions: Var,
        tokens: int,
        channels: int,
        width: int,
        depth: int,
        buffer: int,
        recalled: int,
        known: int | None = None,
        **static: Any,
    ) -> tuple[Var, ...]:
        """As forward; and the keys and values of every attention, first of the encoder."""
        total, sizes = buffer + tokens, config.block.own(width, static)
        c = parts.told(b, conditions, x, width, buffer, static)
        x = b.concat(c, parts.linear(b, "z_proj", x, width), axis=1, out="x")
        x = parts.normed(b, x + _position(b, "encoder_pos", total, width))
        hidden = b.concat(b.full(mask, shape=(buffer,), value=0.0, dtype="f32"), mask, axis=1, out="hidden")
        seen = b.less(hidden, 0.5, out="seen")
        x, caches = parts.remembered(b, "encoder", x, (_keys(b, seen),), depth, sizes)
        x = parts.shown(b, parts.decoder_input(b, x), seen) + _position(b, "decoder_pos", total, width)
        x, more = parts.remembered(b, "decoder", x, (), depth, sizes)
        x = b.slice(parts.norm.apply(b, "decoder_norm", x), axis=1, start=buffer, stop=total, out="x")
        return x + _position(b, "diffusion_pos", tokens, width), *caches, *more

    @module_class(
        "MaskedAutoencoder",
        "recall",
        x="B G=recalled channels",
        unknown="B G=recalled",
        counted="B G=recalled",
        remembered="B T=tokens",
        others="B T=tokens",
        position="B G=recalled",
        caches="B heads buffer+tokens width//heads",
    )
    def recall(
        b: Builder,
        x: Var,
        unknown: Var,
        counted: Var,
        remembered: Var,
        others: Var,
        position: Var,
        *operands: Var,
        tokens: int,
        channels: int,
        width: int,
        depth: int,
        buffer: int,
        recalled: int,
        known: int | None = None,
        **static: Any,
    ) -> Var:
        """Features of some tokens, from these and what is remembered of the others."""
        total, sizes = buffer + tokens, config.block.own(width, static)
        told, caches = operands[: len(operands) - 4 * int(depth)], operands[len(operands) - 4 * int(depth) :]
        front = b.full(unknown, shape=(buffer,), value=float(condition), dtype="f32", out="front")
        fresh = [] if condition else [b.full(unknown, shape=(buffer,), value=1.0, dtype="f32", out="fresh")]
        place = b.op("add", position, buffer, out="place")

        def placed(name: str, count: Any, at: Var) -> Var:
            table = _position(b, name, count, width)
            return b.embedding(b.reshape(table, shape=(count, width)), at, out=name)  # type: ignore[no-any-return]

        def fronted(name: str, x: Var) -> Var:
            """x with the buffer tokens before it, unless these are recalled."""
            x = x + placed(name, total, place)
            if condition:
                return x
            own = b.slice(_position(b, name, total, width), axis=1, start=0, stop=buffer)
            return b.concat(c + own, x, axis=1, out="x")  # type: ignore[no-any-return]

        def visible(*parts: Var) -> Var:
            return _keys(b, b.greater(b.concat(*parts, axis=1), 0.5))

        c = None if condition else parts.told(b, told, x, width, buffer, static)
        x = fronted("encoder_pos", parts.linear(b, "z_proj", x, width))
        mask = visible(front, remembered, *fresh, b.op("sub", 1.0, unknown, out="shown"))
        x = parts.recalled(b, "encoder", parts.normed(b, x), mask, caches[: 2 * int(depth)], True, sizes)
        x, seen = parts.decoder_input(b, x), b.less(unknown, 0.5, out="seen")
        if not condition:
            c, x = b.split(x, axis=1, sizes=(buffer, recalled), out="c x")
        x = fronted("decoder_pos", parts.shown(b, x, seen))
        mask = visible(front, others, *fresh, counted)
        x = parts.recalled(b, "decoder", x, mask, caches[2 * int(depth) :], False, sizes)
        if not condition:
            x = b.slice(x, axis=1, start=buffer, stop=buffer + recalled)
        return parts.norm.apply(b, "decoder_norm", x) + placed("diffusion_pos", tokens, position)

    return remember, recall
