"""A masked autoencoder over continuous tokens: the trunk of MAR.

Symbols: B batch, T tokens of a sample, C channels of a token, D width, R buffer tokens that hold the condition, P
tokens in front of the sample's (the buffer, and those of conditions), K most known tokens of a sample in training, G
tokens that are evaluated anew against what is remembered of the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.backbone import add_method, asked
from latentc.components.blocks.block import Block
from latentc.components.capabilities import Capability, Role
from latentc.components.condition import Entry, Form, ports_of
from latentc.components.contract import Method, Network, Port
from latentc.components.kit.tokens import rows
from latentc.components.networks._masked_parts import Decoder, MaskedParts, keys_of, visibility
from latentc.components.networks._masked_parts import position as learned
from latentc.components.networks._masked_trunk import MaskedTrunk
from latentc.components.parts import Problem, Spec, a_divisor, under
from latentc.components.sampler import Sampler
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, i64, module_class
from latentc.ir.types import B, Named


class MaskedAutoencoder(MaskedTrunk):
    """Encodes the known tokens and decodes features of all of them (MAR, Li et al. 2024, arXiv:2406.11838).

    `forward`: x f32[B, T, C], mask f32[B, T] (1: hidden), the conditions -> f32[B, T, D], where D is the decoder's
    width. The encoder's attention masks hidden tokens, so any number of them may be known. `forward_known` returns the
    same if at most K tokens of each sample are known, and encodes only P + K tokens; it is called in training.
    `remember` and `recall` are for samplers that reuse keys and values of unchanged tokens (ReCAP). Sequence
    conditions, such as captions, are tokens after the buffer.
    """

    kind: Literal["masked_autoencoder"]
    decoder: Decoder | None = Field(None, description="width, depth and heads of the decoder; null: as the encoder's")
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "masked_autoencoder",
        "width": 16,
        "depth": 1,
        "buffer": 2,
        "block": {**Block.EXAMPLE, "feed_forward": {"kind": "gelu_mlp", "approximate": "none"}},
    }

    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"masked_features"})
    RECALLS: ClassVar[bool] = True
    FRONTS: ClassVar[bool] = True
    TAKES: ClassVar[tuple[Form, ...]] = ("vector", "tokens")

    @property
    def fixed(self) -> tuple[str, ...]:
        return ("tokens", "buffer", "grid")

    def problems(self, spec: Spec) -> Iterator[Problem]:
        if spec.data.shape is None or len(spec.data.shape) != 3:
            message = f"a {self.kind} takes arrays [C, H, W], but the data has {spec.data.words}"
            yield Problem((), message, "use a network that hides tokens, such as a `bert`")
        else:
            _, height, width = spec.data.shape
            if height % self.patch or width % self.patch:
                yield Problem(
                    ("patch",), f"patches of {self.patch} do not tile {height} by {width}", a_divisor(height, width)
                )
        yield from super().problems(spec)
        yield from self._problems_of_buffer(spec)
        if isinstance(spec.sampler, Sampler) and spec.sampler.recalls(self._count(spec)) is not None:
            yield from self._problems_of_recall(spec)
        if self.decoder is not None:
            yield from under("decoder", problems=self._problems_of_decoder(self.decoder, spec))

    def _problems_of_decoder(self, decoder: Decoder, spec: Spec) -> Iterator[Problem]:
        yield from self.problems_of_decoder(decoder.width, decoder.heads)

    def token_features(self, spec: Spec) -> tuple[int, int] | None:
        return self.tokens(spec)[1], self.width if self.decoder is None else self.decoder.width

    def _problems_of_buffer(self, spec: Spec) -> Iterator[Problem]:
        if self.takes(spec) and all(entry.form != "vector" for entry in self.entries(spec)):
            yield Problem((), "the buffer holds the sum of vector conditions, but there is no such condition")

    def _problems_of_recall(self, spec: Spec) -> Iterator[Problem]:
        if any(entry.form != "vector" for entry in self.entries(spec)):
            message = "the sampler reuses keys and values, but cannot do so with conditions that are sequences"
            yield Problem((), message, "use a sampler without `reuse`")
        if "kv_heads" in self.block.static(self.width):
            message = "a sampler that reuses keys and values takes as many of them as queries"
            yield Problem(("block", "mixer", "kv_heads"), message, "leave `kv_heads` out")
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

    def parts(self, entries: tuple[Entry, ...]) -> MaskedParts:
        """The parts that the methods share."""
        return MaskedParts(self, entries)

    def sizes(self, spec: Spec) -> dict[str, Any]:
        """Static arguments of every method."""
        length, channels = self.tokens(spec)
        return {
            "tokens": length,
            "channels": channels,
            "width": self.width,
            "depth": self.depth,
            "buffer": self.buffer,
            **({} if self.decoder is None else {f"decoder_{k}": v for k, v in self.decoder.model_dump().items()}),
            **self.block.static(self.width),
            **self.condition_sizes(spec),
        }

    def shortens(self) -> bool:
        """Whether `forward_known` encodes the known tokens only."""
        return True

    def further(
        self, mb: ModuleBuilder, name: str, spec: Spec, ports: tuple[Port, ...], static: dict[str, Any]
    ) -> dict[str, Method]:
        """Methods beside these, of the `ports` and static arguments of `forward`."""
        return {}

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        length, channels = self.tokens(spec)
        most = asked(spec, name, "most_known", int)(length)
        shortens = most < length and self.shortens()
        recall = spec.sampler.recalls(length) if isinstance(spec.sampler, Sampler) else None
        static: dict[str, Any] = {
            "tokens": length,
            **({"known": most} if shortens else {}),
            **({"recalled": recall.tokens} if recall is not None else {}),
            **self.sizes(spec),
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
        methods |= self.further(mb, name, spec, ports, static)
        return Network(name, methods, self.provides(spec))


_SHAPES = {"x": "B T=tokens channels", "mask": "B T=tokens"}


@cache
def _methods(config: MaskedAutoencoder, entries: tuple[Entry, ...]) -> tuple[BlockBody, BlockBody, BlockBody]:
    """`forward`, `forward_known` and `remember`."""
    parts = config.parts(entries)

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
    parts = config.parts(entries)

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
        sizes, length = config.block.own(width, static), buffer + tokens
        more, own = parts.decoder_sizes(depth, sizes, static)
        kept = 2 * (int(depth) + int(more))
        cond, caches = operands[: len(operands) - kept], operands[len(operands) - kept :]
        front = b.full(unknown, shape=(buffer,), value=float(condition), dtype="f32", out="front")
        fresh = [] if condition else [b.full(unknown, shape=(buffer,), value=1.0, dtype="f32", out="fresh")]
        place = b.op("add", position, buffer, out="place")

        def placed(name: str, count: Any, at: Var, width: Any) -> Var:
            table = learned(b, name, count, width)
            return b.embedding(b.reshape(table, shape=(count, width)), at, out=name)

        def fronted(name: str, x: Var) -> Var:
            """x with the buffer tokens before it, unless these are recalled."""
            x = x + placed(name, length, place, x.shape[2])
            if condition:
                return x
            assert c is not None
            front = b.slice(learned(b, name, length, x.shape[2]), axis=1, start=0, stop=buffer)
            return b.concat(c + front, x, axis=1, out="x")

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
        return x + placed("diffusion_pos", tokens, position, x.shape[2])

    return recall
