"""The condition as tokens of the sequence: blocks know nothing of it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.blocks.mixing import Mix, chunk_mix, masked_mix
from latentc.components.parts import BlockCondition, DecodeState, FeedForward, Mixer, Norm, Told
from latentc.ir.builder import BlockBody, Builder, Var, f32, module_class


class InContext(BlockCondition):
    """Pre-norm residual blocks; the condition is a token of the sequence (GPT, LLaMA, LlamaGen)."""

    kind: Literal["in_context"]
    gated: bool = Field(
        False,
        description="branches are scaled by learned vectors, which start at zero; not in masked and decoding blocks",
    )
    TAKES: ClassVar[Told] = None
    IN_CHUNKS: ClassVar[bool] = True
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "in_context"}

    def block(self, mixer: Mixer, feed_forward: FeedForward, norm: Norm, init: str) -> BlockBody:
        return _gated_block(mixer, feed_forward, norm, init) if self.gated else _block(mixer, feed_forward, norm, init)

    def masked_block(self, mixer: Mixer, feed_forward: FeedForward, norm: Norm, init: str) -> BlockBody:
        return _masked_block(mixer, feed_forward, norm, init)

    def extend_block(
        self, mixer: Mixer, feed_forward: FeedForward, norm: Norm, init: str, masked: bool = False
    ) -> BlockBody:
        return _extend_block(mixer, feed_forward, norm, init, masked)

    def begin_block(
        self, mixer: Mixer, feed_forward: FeedForward, norm: Norm, init: str, masked: bool = False
    ) -> BlockBody:
        return _begin_block(mixer, feed_forward, norm, init, masked)

    def decode_block(
        self, mixer: Mixer, feed_forward: FeedForward, norm: Norm, init: str, tempered: bool = False
    ) -> BlockBody:
        """The same block for one token against a cache: returns (x, key cache, value cache).

        A `tempered` one takes the temperature of its attention behind the caches.
        """
        return _decode_block(mixer, feed_forward, norm, init, tempered)


def _body(
    b: Builder,
    x: Var,
    mix: Mix,
    feed_forward: FeedForward,
    norm: Norm,
    init: str,
    dim: int,
    static: Mapping[str, Any],
) -> Var:
    feeding = {k: static[k] for k in feed_forward.static(dim)}
    (h,) = mix(norm.apply(b, "norm1", x))
    x = x + h
    return x + feed_forward.apply(b, "mlp", norm.apply(b, "norm2", x), init, dim=dim, **feeding)


@cache
def _block(mixer: Mixer, feed_forward: FeedForward, norm: Norm, init: str) -> BlockBody:
    @module_class("TransformerBlock")
    def block(b: Builder, x: Var, *rotary: Var, dim: int, **static: Any) -> Var:
        """A pre-norm transformer block."""
        mixing = mixer.own(dim, static)
        feeding = {k: static[k] for k in feed_forward.static(dim)}
        h = norm.apply(b, "norm1", x) if mixer.normalised else x
        x = x + mixer.apply(b, "attn", h, rotary, init, dim=dim, **mixing)
        return x + feed_forward.apply(b, "mlp", norm.apply(b, "norm2", x), init, dim=dim, **feeding)

    return block


@cache
def _gated_block(mixer: Mixer, feed_forward: FeedForward, norm: Norm, init: str) -> BlockBody:
    @module_class("TransformerBlock")
    def block(b: Builder, x: Var, *rotary: Var, dim: int, **static: Any) -> Var:
        """A pre-norm transformer block whose branches are scaled by channel."""
        mixing = mixer.own(dim, static)
        feeding = {k: static[k] for k in feed_forward.static(dim)}
        h = mixer.apply(b, "attn", norm.apply(b, "norm1", x), rotary, init, dim=dim, **mixing)
        x = x + h * b.param("attn_scale", f32(dim), "zeros")
        h = feed_forward.apply(b, "mlp", norm.apply(b, "norm2", x), init, dim=dim, **feeding)
        return x + h * b.param("mlp_scale", f32(dim), "zeros")

    return block


@cache
def _masked_block(mixer: Mixer, feed_forward: FeedForward, norm: Norm, init: str) -> BlockBody:
    @module_class("MaskedBlock")
    def block(b: Builder, x: Var, mask: Var, *rotary: Var, dim: int, **static: Any) -> Var:
        """A pre-norm transformer block that sees the tokens where `mask` is true."""
        mix = masked_mix(b, mixer, mask, rotary, init, {"dim": dim, **mixer.own(dim, static)})
        return _body(b, x, mix, feed_forward, norm, init, dim, static)

    return block


@cache
def _extend_block(mixer: Mixer, feed_forward: FeedForward, norm: Norm, init: str, masked: bool) -> BlockBody:
    @module_class("MaskedBlock", "extend")
    def extend(b: Builder, x: Var, keys: Var, values: Var, *others: Var, dim: int, **static: Any) -> tuple[Var, ...]:
        """The block for the next tokens, against the keys and values of those before; returns them grown, too."""
        sizes = {"dim": dim, **mixer.own(dim, static)}
        mix, grown = chunk_mix(b, mixer, (keys, values), others, masked, init, sizes)
        return _body(b, x, mix, feed_forward, norm, init, dim, static), *grown

    return extend


@cache
def _begin_block(mixer: Mixer, feed_forward: FeedForward, norm: Norm, init: str, masked: bool) -> BlockBody:
    @module_class("MaskedBlock", "begin")
    def begin(b: Builder, x: Var, *others: Var, dim: int, **static: Any) -> tuple[Var, ...]:
        """The block for the first tokens; returns their keys and values, too."""
        mix, grown = chunk_mix(b, mixer, (), others, masked, init, {"dim": dim, **mixer.own(dim, static)})
        return _body(b, x, mix, feed_forward, norm, init, dim, static), *grown

    return begin


@cache
def _decode_block(mixer: Mixer, feed_forward: FeedForward, norm: Norm, init: str, tempered: bool) -> BlockBody:
    @module_class("TransformerBlock", "decode")
    def decode(
        b: Builder, x: Var, position: Var, mask: Var, keys: Var, values: Var, *others: Var, dim: int, **static: Any
    ) -> tuple[Var, Var, Var]:
        """The block for one token against the cached keys and values."""
        mixing = mixer.own(dim, static)
        feeding = {k: static[k] for k in feed_forward.static(dim)}
        temperature, rotary = (others[0], others[1:]) if tempered else (None, others)
        state = DecodeState(position, mask, keys, values, temperature)
        h = norm.apply(b, "norm1", x)
        h, keys, values = mixer.decode(b, "attn", h, state, rotary, init, dim=dim, **mixing)
        x = x + h
        x = x + feed_forward.apply(b, "mlp", norm.apply(b, "norm2", x), init, dim=dim, **feeding)
        return x, keys, values

    return decode
