"""A masked autoencoder over continuous tokens: the trunk of MAR.

Symbols: B batch, T tokens of a sample, C channels of a token, D width, R buffer tokens that hold the condition, P
tokens in front of the sample's (the buffer, and those of conditions), K most known tokens of a sample in training, G
tokens that are evaluated anew against what is remembered of the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from latentc.components import Closed, Component, OneOf
from latentc.components.backbone import add_method, asked
from latentc.components.blocks.norms.layer_norm import LayerNorm
from latentc.components.capabilities import Capability, Role
from latentc.components.condition import Entry, Form, ports_of
from latentc.components.contract import Network, Port
from latentc.components.kit.tokens import rows
from latentc.components.networks._masked_parts import Decoder, MaskedParts, keys_of, visibility
from latentc.components.networks._masked_parts import position as learned
from latentc.components.networks._masked_trunk import MaskedTrunk
from latentc.components.parts import Positions, Problem, a_divisor, dense, under
from latentc.components.sampler import Sampler
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, i64, module_class
from latentc.ir.types import B, Named

if TYPE_CHECKING:
    from latentc.spec.schema import Spec


class FeaturePredictor(Closed):
    """Two linear layers with GELU between them."""

    ratio: float = Field(4.0, gt=0, le=64, description="hidden width as a multiple of the width")
    norm: bool = Field(True, description="layer norm before the second layer")


@cache
def targets(config: MaskedAutoencoder, entries: tuple[Entry, ...]) -> BlockBody:
    parts = MaskedParts(config, entries)

    @module_class("MaskedAutoencoder", "targets", x="B T=tokens channels")
    def targets(
        b: Builder,
        x: Var,
        *conditions: Var,
        tokens: int,
        channels: int,
        width: int,
        depth: int,
        buffer: int,
        known: int | None = None,
        recalled: int = 0,
        **static: Any,
    ) -> Var:
        """The encoder's features of every token of a sample of which nothing is hidden."""
        c, counted = parts.in_front(b, conditions, x, width, buffer, static)
        prefix = c.shape[1]
        x = parts.normed(b, parts.joined(b, c, x, tokens))
        total = x.shape[1]
        # A mask that hides nothing, so that the blocks are those of encoders of partly hidden samples.
        visible = b.full(x, shape=(tokens if counted is not None else total,), value=1.0, dtype="bool", out="every")
        if counted is not None:
            visible = b.concat(counted, visible, axis=1, out="visible")
        sizes, rotary = config.block.own(width, static), parts.rotary(b, x, static)
        x = parts.blocks(b, "encoder", x, prefix, (keys_of(b, visible),), depth, sizes, rotary)
        x = parts.norm.apply(b, "encoder_norm", x)
        return b.slice(x, axis=1, start=prefix, stop=total, out="x")  # type: ignore[no-any-return]

    return targets


@cache
def predict(config: MaskedAutoencoder) -> BlockBody:
    @module_class("MaskedAutoencoder", "predict", z="B T=tokens width")
    def predict(b: Builder, z: Var, *, width: int, known: int | None = None, recalled: int = 0, **static: Any) -> Var:
        """Predicts the targets from the features z of a partly hidden sample."""
        assert config.predictor is not None
        return b.sub("predictor", _predictor(config.predictor, config.weights), z, dim=width)  # type: ignore[no-any-return]

    return predict


@cache
def _predictor(config: FeaturePredictor, init: str) -> BlockBody:
    whole = int(config.ratio) if config.ratio == int(config.ratio) else None

    @module_class("FeaturePredictor", z="B T dim")
    def predictor(b: Builder, z: Var, *, dim: int) -> Var:
        """Two linear layers with GELU between them."""
        hidden = int(dim * config.ratio) if whole is None else whole * dim
        x = b.gelu(dense(b, "fc1", z, hidden, True, init), approximate="none", out="x")
        if config.norm:
            x = LayerNorm(kind="layer_norm", eps=1e-6, affine=True).apply(b, "norm", x)
        return dense(b, "fc2", x, dim, True, init)

    return predictor


class MaskedAutoencoder(MaskedTrunk):
    """Encodes the known tokens and decodes features of all of them (MAR, Li et al. 2024, arXiv:2406.11838).

    `forward`: x f32[B, T, C], mask f32[B, T] (1: hidden), the conditions -> f32[B, T, D], where D is the decoder's
    width. The encoder's attention masks hidden tokens, so any number of them may be known. `forward_known` returns the
    same if at most K tokens of each sample are known, and encodes only P + K tokens; it is called in training.
    `remember` and `recall` are for samplers that reuse keys and values of unchanged tokens (ReCAP). With a `predictor`,
    `targets` encodes a sample with nothing hidden as f32[B, T, D], and `predict` predicts these from features f32[B, T,
    D] (D-JEPA, Chen et al. 2024, arXiv:2410.03755). Sequence conditions, such as captions, are tokens after the buffer
    (D-JEPA·T2I, arXiv:2411.14808).
    """

    kind: Literal["masked_autoencoder"]
    learned_positions: Literal["all", "tokens", "none"] = Field(
        "all",
        description="learned positions; all: of buffer and tokens in encoder and decoder, and of the features (MAR); "
        "tokens: of tokens in encoder and decoder (D-JEPA). Unless `all`, the buffer consists of learned tokens",
    )
    positions: Annotated[Component | None, OneOf("blocks/positions")] = Field(
        None, description="rotary positions in every attention, for a square of tokens; null: none"
    )
    decoder: Decoder | None = Field(None, description="width, depth and heads of the decoder; null: as the encoder's")
    predictor: FeaturePredictor | None = Field(
        None,
        description="predicts an averaged encoder's features of the hidden tokens, for the loss (D-JEPA); null: none",
    )
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
    RECALLS: ClassVar[bool] = True
    FRONTS: ClassVar[bool] = True
    TAKES: ClassVar[tuple[Form, ...]] = ("vector", "tokens")

    @property
    def fixed(self) -> tuple[str, ...]:
        return ("tokens", "buffer", "grid")

    def provides(self, spec: Spec) -> frozenset[Capability]:
        more: frozenset[Capability] = frozenset() if self.predictor is None else frozenset({"predicted_features"})
        return super().provides(spec) | more

    def problems(self, spec: Spec) -> Iterator[Problem]:
        if spec.data.shape is None or len(spec.data.shape) != 3:
            message = f"a masked_autoencoder takes arrays [C, H, W], but the data has {spec.data.words}"
            yield Problem((), message, "use a masked_transformer for tokens")
        else:
            _, height, width = spec.data.shape
            if height % self.patch or width % self.patch:
                yield Problem(
                    ("patch",), f"patches of {self.patch} do not tile {height} by {width}", a_divisor(height, width)
                )
        yield from super().problems(spec)
        alone = self.takes(spec) and all(entry.form != "vector" for entry in self.entries(spec))
        if self.learned_positions == "all" and alone:
            message = "with `all`, the buffer holds the sum of vector conditions, but there is no such condition"
            yield Problem(
                ("learned_positions",),
                message,
                "use `tokens` or `none`, with which the buffer consists of learned tokens",
            )
        if self.positions is not None:
            yield from self._problems_of_rotary(spec)
        if isinstance(spec.sampler, Sampler) and spec.sampler.recalls(self._count(spec)) is not None:
            yield from self._problems_of_recall(spec)
        if self.decoder is not None:
            yield from under("decoder", problems=self._problems_of_decoder(self.decoder, spec))

    def _problems_of_decoder(self, decoder: Decoder, spec: Spec) -> Iterator[Problem]:
        yield from self.problems_of_decoder(decoder.width, decoder.heads)
        for there, what in ((self.positions, "positions"), (self.predictor, "predictor")):
            if there:
                yield Problem((), f"with `{what}` the decoder must be as wide as the encoder", "leave out either")

    def token_features(self, spec: Spec) -> tuple[int, int] | None:
        return self.tokens(spec)[1], self.width if self.decoder is None else self.decoder.width

    def _problems_of_rotary(self, spec: Spec) -> Iterator[Problem]:
        yield from self.block.problems_of_rotary(self.width, positions=self.positions)
        if not (isinstance(self.positions, Positions) and self.positions.ROTARY):
            message = f"`{self.positions.kind}` is added to the input, but `positions` rotate queries and keys"  # type: ignore[union-attr]
            yield Problem(
                ("positions",),
                message,
                "use `{kind: rope_2d}` or `{kind: rope_prefix}`, or `learned_positions` instead",
            )
        shape = spec.data.shape
        if shape is not None and len(shape) == 3 and shape[1] != shape[2]:
            yield Problem(("positions",), f"rotary positions need a square, not {shape[1]} by {shape[2]}")

    def _problems_of_recall(self, spec: Spec) -> Iterator[Problem]:
        if self.positions is not None:
            message = "the sampler reuses keys and values, but keys with rotary positions cannot be reused elsewhere"
            yield Problem(("positions",), message, "leave out `positions`, or use a sampler without `reuse`")
        if any(entry.form != "vector" for entry in self.entries(spec)):
            message = "the sampler reuses keys and values, but cannot do so with conditions that are sequences"
            yield Problem((), message, "use a sampler without `reuse`")
        condition = self.block.parts()[3]
        if self.block.parted:
            message = "the sampler reuses keys and values, but cannot do so if leading tokens have their own attributes"
            yield Problem(("block",), message, "give one list of `attributes`, or use a sampler without `reuse`")
        if condition.separates:
            message = "the sampler reuses keys and values, but cannot do so with separate weights for leading tokens"
            yield Problem(("block", "condition", "front"), message, "leave out `front` or the sampler's `reuse`")

    def decoder_sizes(self, static: Mapping[str, Any]) -> dict[str, Any]:
        """Static arguments of the decoder's blocks, of those of the network."""
        assert self.decoder is not None
        feed_forward = self.block.parts()[1]
        return {"heads": static["decoder_heads"], **feed_forward.static(static["decoder_width"])}

    def _count(self, spec: Spec) -> int:
        """Tokens of a sample, as many as there would be if the data were right."""
        shape = spec.data.shape
        return 1 if shape is None or len(shape) != 3 else max(self.tokens(spec)[0], 1)

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        length, channels = self.tokens(spec)
        most = asked(spec, name, "most_known", int)(length)
        shortens = most < length and self.positions is None  # rotary tables cover all tokens in order
        recall = spec.sampler.recalls(length) if isinstance(spec.sampler, Sampler) else None
        static: dict[str, Any] = {
            "tokens": length,
            **({"known": most} if shortens else {}),
            **({"recalled": recall.tokens} if recall is not None else {}),
            "channels": channels,
            "width": self.width,
            "depth": self.depth,
            "buffer": self.buffer,
            **({} if self.decoder is None else {f"decoder_{k}": v for k, v in self.decoder.model_dump().items()}),
            **({} if self.positions is None else {"grid": round(length**0.5)}),
            **self.block.static(self.width),
            **self.condition_sizes(spec),
        }
        entries, tokens = self.entries(spec), Named(length, "T")
        ports = (
            Port("x", f32(B, tokens, channels), "state"),
            Port("mask", f32(B, tokens), "mask"),
            *ports_of(entries),
        )
        forward, forward_known, remember = _methods(self, entries)
        methods = {"forward": add_method(mb, name, "forward", forward, ports, static)}
        if shortens:
            methods["forward_known"] = add_method(mb, name, "forward_known", forward_known, ports, static)
        if recall is not None:
            shapes = [(static.get("kv_heads", static["heads"]), self.width // static["heads"])] * 2 * self.depth
            own = self.decoder
            shapes += shapes if own is None else [(own.heads, own.width // own.heads)] * 2 * own.depth
            names = ("caches", *(f"caches_{i}" for i in range(2, len(shapes) + 1)))
            kept = [
                Port(key, f32(B, heads, self.buffer + length, size), "cache")
                for key, (heads, size) in zip(names, shapes, strict=True)
            ]
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
            methods["remember"] = add_method(mb, name, "remember", remember, ports, static, roles)
            recalls = recalling(self, entries, recall.condition)
            methods["recall"] = add_method(mb, name, "recall", recalls, some, static)
        if self.predictor is not None:
            whole, z = (ports[0], *ports[2:]), Port("z", f32(B, tokens, self.width), "features")
            methods["targets"] = add_method(mb, name, "targets", targets(self, entries), whole, static)
            methods["predict"] = add_method(mb, name, "predict", predict(self), (z,), static)
        return Network(name, methods, self.provides(spec))


_SHAPES = {"x": "B T=tokens channels", "mask": "B T=tokens"}


@cache
def _methods(config: MaskedAutoencoder, entries: tuple[Entry, ...]) -> tuple[BlockBody, BlockBody, BlockBody]:
    """`forward`, `forward_known` and `remember`."""
    parts = MaskedParts(config, entries)

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
        caches: list[Var] | None = None,
        **static: Any,
    ) -> Var:
        """`forward`; the keys and values of every attention, first of the encoder, join `caches`."""
        sizes = config.block.own(width, static)
        c, counted = parts.in_front(b, conditions, x, width, buffer, static)
        x = parts.joined(b, c, x, tokens)
        prefix = c.shape[1]
        length = x.shape[1] if known is None else prefix + known

        def blocks(part: str, x: Var, mask: tuple[Var, ...], depth: int, sizes: dict[str, Any]) -> Var:
            if caches is None:
                return parts.blocks(b, part, x, prefix, mask, depth, sizes, rotary)
            x, kept = parts.remembered(b, part, x, mask, depth, sizes)
            caches.extend(kept)
            return x

        hidden, seen, visible, counted = visibility(b, mask, prefix, counted)
        if known is not None:
            order = b.argsort(hidden, out="order")  # seen tokens first, each kind in its own order
            kept = b.slice(order, axis=1, start=0, stop=length, out="kept")
            visible = b.take_along(visible, kept, axis=1, out="visible")
            x = rows(b, x, kept, "x")
        x = parts.normed(b, x)
        rotary = parts.rotary(b, x, static)
        x = blocks("encoder", x, (keys_of(b, visible),), depth, sizes)
        x = parts.decoder_input(b, x, static.get("decoder_width"))
        if known is not None:
            place = b.minimum(b.argsort(order), length - 1, out="place")  # where each token went
            x = rows(b, x, place, "x")
        x = parts.decoder_placed(b, parts.shown(b, x, seen), tokens)
        depth, sizes = parts.decoder_sizes(depth, sizes, static)
        shown = () if counted is None else (keys_of(b, counted),)
        x = blocks("decoder", x, shown, depth, sizes)
        return parts.features(b, x, tokens)

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

    @module_class("MaskedAutoencoder", "remember", **_SHAPES)
    def remember(
        b: Builder, x: Var, mask: Var, *conditions: Var, known: int | None = None, recalled: int = 0, **static: Any
    ) -> tuple[Var, ...]:
        """As forward; and the keys and values of every attention, first of the encoder."""
        caches = list[Var]()
        return features(b, x, mask, *conditions, caches=caches, **static), *caches

    return forward, forward_known, remember


@cache
def recalling(config: MaskedAutoencoder, entries: tuple[Entry, ...], condition: bool) -> BlockBody:
    """`recall`; `condition`: the buffer tokens are recalled, too."""
    parts = MaskedParts(config, entries)

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
        sizes, everywhere = config.block.own(width, static), config.learned_positions == "all"
        length, first = (buffer + tokens, buffer) if everywhere else (tokens, 0)
        more, own = parts.decoder_sizes(depth, sizes, static)
        kept = 2 * (int(depth) + int(more))
        cond, caches = operands[: len(operands) - kept], operands[len(operands) - kept :]
        front = b.full(unknown, shape=(buffer,), value=float(condition), dtype="f32", out="front")
        fresh = [] if condition else [b.full(unknown, shape=(buffer,), value=1.0, dtype="f32", out="fresh")]
        place = b.op("add", position, buffer, out="place") if everywhere else position

        def placed(name: str, count: Any, at: Var, width: Any) -> Var:
            table = learned(b, name, count, width)
            return b.embedding(b.reshape(table, shape=(count, width)), at, out=name)  # type: ignore[no-any-return]

        def fronted(name: str, x: Var) -> Var:
            """x with the buffer tokens before it, unless these are recalled."""
            x = x + placed(name, length, place, x.shape[2]) if config.learned_positions != "none" else x
            if condition:
                return x
            assert c is not None
            table = learned(b, name, length, x.shape[2]) if everywhere else None
            front = c if table is None else c + b.slice(table, axis=1, start=0, stop=first)
            return b.concat(front, x, axis=1, out="x")  # type: ignore[no-any-return]

        def visible(*parts: Var) -> Var:
            return keys_of(b, b.greater(b.concat(*parts, axis=1), 0.5))

        c = None if condition else parts.in_front(b, cond, x, width, buffer, static)[0]
        x = fronted("encoder_pos", parts.linear(b, "z_proj", x, width))
        mask = visible(front, remembered, *fresh, b.op("sub", 1.0, unknown, out="shown"))
        x = parts.recalled(b, "encoder", parts.normed(b, x), mask, caches[: 2 * int(depth)], True, sizes)
        x, seen = parts.decoder_input(b, x, static.get("decoder_width")), b.less(unknown, 0.5, out="seen")
        if not condition:
            c, x = b.split(x, axis=1, sizes=(buffer, recalled), out="c x")
        x = fronted("decoder_pos", parts.shown(b, x, seen))
        mask = visible(front, others, *fresh, counted)
        x = parts.recalled(b, "decoder", x, mask, caches[2 * int(depth) :], False, own)
        if not condition:
            x = b.slice(x, axis=1, start=buffer, stop=buffer + recalled)
        x = parts.norm.apply(b, "decoder_norm", x)
        return x + placed("diffusion_pos", tokens, position, x.shape[2]) if everywhere else x

    return recall
