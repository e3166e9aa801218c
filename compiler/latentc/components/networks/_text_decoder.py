"""The decoder's block of text_to_text: attention to the tokens before, and to those of the encoder.

Symbols: B batch, S tokens of the encoder, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from latentc.components.blocks.conditions.in_context import InContext
from latentc.components.blocks.cross_attention import encoder_attention, look_up, remember
from latentc.components.decoding import DecodeState
from latentc.components.parts import CachedMixer, FeedForward, Norm
from latentc.ir.builder import BlockBody, Builder, Var, module_class

if TYPE_CHECKING:
    from latentc.components.networks.text_to_text import TextToText


def _parts(config: TextToText) -> tuple[CachedMixer, FeedForward, Norm, InContext]:
    mixer, feed_forward, norm, condition = config.block.cached_parts()
    assert isinstance(condition, InContext)
    return mixer, feed_forward, norm, condition


def _joined(b: Builder, norm: Norm, name: str, x: Var, after: bool, branch: Any) -> Var:
    """x with a branch of it; the norm precedes the branch, or follows the sum."""
    if after:
        return norm.apply(b, name, b.add(x, branch(x), out="x"))
    return b.add(x, branch(norm.apply(b, name, x)), out="x")  # type: ignore[no-any-return]


@cache
def decoder_block(config: TextToText) -> BlockBody:
    mixer, feed_forward, norm, condition = _parts(config)
    init, after = config.weights, condition.norm_after

    @module_class("DecoderBlock")
    def block(b: Builder, x: Var, context: Var, seen: Var, *, dim: int, **static: Any) -> Var:
        """A block that also looks at the encoder's tokens where `seen` is true."""
        own = mixer.own(dim, static)
        heads = {"dim": dim, "heads": static["heads"]}
        x = _joined(b, norm, "norm1", x, after, lambda h: mixer.apply(b, "attn", h, (), init, dim=dim, **own))
        x = _joined(
            b, norm, "norm_cross", x, after, lambda h: b.sub("cross", encoder_attention, h, context, seen, **heads)
        )
        return _fed(b, feed_forward, norm, init, x, after, dim, static)

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
        grown: list[Var] = []

        def mix(h: Var) -> Var:
            h, *grown[:] = mixer.decode(
                b, "attn", h, DecodeState(position, mask, keys, values), (), init, dim=dim, **own
            )
            return h

        x = _joined(b, norm, "norm1", x, after, mix)
        looked = lambda h: b.sub("cross", look_up, h, kept_keys, kept_values, seen, **heads)  # noqa: E731
        x = _joined(b, norm, "norm_cross", x, after, looked)
        return _fed(b, feed_forward, norm, init, x, after, dim, static), *grown  # type: ignore[return-value]

    return decode


@cache
def decoder_memory(config: TextToText) -> BlockBody:
    @module_class("DecoderBlock", "remember")
    def remember_block(b: Builder, context: Var, *, dim: int, **static: Any) -> tuple[Var, Var]:
        """Keys and values of the encoder's tokens."""
        return b.sub("cross", remember, context, out="keys values", dim=dim, heads=static["heads"])  # type: ignore[no-any-return]

    return remember_block


def _fed(
    b: Builder,
    feed_forward: FeedForward,
    norm: Norm,
    init: str,
    x: Var,
    after: bool,
    dim: int,
    static: Mapping[str, Any],
) -> Var:
    own = {k: static[k] for k in feed_forward.static(dim)}
    return _joined(b, norm, "norm2", x, after, lambda h: feed_forward.apply(b, "mlp", h, init, dim=dim, **own))


__all__ = ["decoder_block", "decoder_memory", "decoder_step"]
