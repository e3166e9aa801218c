"""The condition as tokens that blocks attend to, behind what tokens say to each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.blocks.cross_attention import context_attention, context_look_up, context_memory
from latentc.components.decoding import DecodeState
from latentc.components.parts import BlockCondition, CachedMixer, FeedForward, Mixer, Norm, Told
from latentc.ir.builder import BlockBody, Builder, Var, module_class


class CrossAttention(BlockCondition):
    """Pre-norm blocks with three branches: mixer, attention to the condition tokens, feed-forward.

    As in latent diffusion and RARM (Blattmann et al. 2022, arXiv:2204.11824); queries, keys and values of the second
    branch have no biases.
    """

    kind: Literal["cross_attention"]
    proj_bias: bool = Field(
        True, description="bias of the output projection of the second branch's attention (GIVT: none)"
    )
    TAKES: ClassVar[Told] = None
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "cross_attention"}

    @property
    def takes_tokens(self) -> bool:
        return True

    def block(self, mixer: Mixer, feed_forward: FeedForward, norm: Norm, init: str) -> BlockBody:
        return _block(mixer, feed_forward, norm, init, self.proj_bias)

    def decode_block(self, mixer: CachedMixer, feed_forward: FeedForward, norm: Norm, init: str) -> BlockBody:
        """The block for one token: x, position, mask, context, key and value caches -> x, the grown caches."""
        return _decode_block(mixer, feed_forward, norm, init, self.proj_bias, False)

    def remember_block(self, init: str) -> BlockBody:
        """Keys and values f32[B, H, L, d] of the context that `recall_block` looks at."""
        return _remember_block(init)

    def recall_block(self, mixer: CachedMixer, feed_forward: FeedForward, norm: Norm, init: str) -> BlockBody:
        """The block for one token: x, position, mask, the context's keys and values, key and value caches -> x, the
        grown caches.
        """
        return _decode_block(mixer, feed_forward, norm, init, self.proj_bias, True)


def _body(
    b: Builder,
    x: Var,
    mix: Callable[[Var], Var],
    cross: Callable[[Var], Var],
    feed_forward: FeedForward,
    norm: Norm,
    init: str,
    dim: int,
    static: Mapping[str, Any],
) -> Var:
    x = x + mix(norm.apply(b, "norm1", x))
    x = x + cross(norm.apply(b, "norm2", x))
    feeding = {key: static[key] for key in feed_forward.static(dim)}
    return x + feed_forward.apply(b, "mlp", norm.apply(b, "norm3", x), init, dim=dim, **feeding)


def _cross(
    b: Builder, seen: Sequence[Var], init: str, bias: bool, dim: int, context_dim: int, heads: int
) -> Callable[[Var], Var]:
    """Attention to a context, or to its keys and values."""
    sizes = {"dim": dim, "context_dim": context_dim, "heads": heads}
    body = context_attention(init, False, bias) if len(seen) == 1 else context_look_up(init, bias)
    return lambda h: b.sub("cross_attn", body, h, *seen, out="h", **sizes)


@cache
def _block(mixer: Mixer, feed_forward: FeedForward, norm: Norm, init: str, bias: bool) -> BlockBody:
    @module_class("ContextBlock", context="B L context_dim")
    def block(b: Builder, x: Var, context: Var, *, dim: int, context_dim: int, **static: Any) -> Var:
        """A pre-norm transformer block whose tokens attend to those of the context, too."""

        def mix(h: Var) -> Var:
            return mixer.apply(b, "attn", h, (), init, dim=dim, **mixer.own(dim, static))

        cross = _cross(b, (context,), init, bias, dim, context_dim, static["heads"])
        return _body(b, x, mix, cross, feed_forward, norm, init, dim, static)

    return block


@cache
def _decode_block(
    mixer: CachedMixer, feed_forward: FeedForward, norm: Norm, init: str, bias: bool, recalls: bool
) -> BlockBody:
    def step(
        b: Builder, x: Var, seen: Sequence[Var], state: DecodeState, dim: int, context_dim: int, static: Any
    ) -> tuple[Var, Var, Var]:
        grown: list[Var] = []

        def mix(h: Var) -> Var:
            h, *grown[:] = mixer.decode(b, "attn", h, state, (), init, dim=dim, **mixer.own(dim, static))
            return h

        cross = _cross(b, seen, init, bias, dim, context_dim, static["heads"])
        x = _body(b, x, mix, cross, feed_forward, norm, init, dim, static)
        keys, values = grown
        return x, keys, values

    @module_class("ContextBlock", "decode", context="B L context_dim")
    def decode(
        b: Builder,
        x: Var,
        position: Var,
        mask: Var,
        context: Var,
        keys: Var,
        values: Var,
        *,
        dim: int,
        context_dim: int,
        **static: Any,
    ) -> tuple[Var, Var, Var]:
        """The block for one token against the cached keys and values."""
        return step(b, x, (context,), DecodeState(position, mask, keys, values), dim, context_dim, static)

    @module_class("ContextBlock", "recall")
    def recall(
        b: Builder,
        x: Var,
        position: Var,
        mask: Var,
        context_keys: Var,
        context_values: Var,
        keys: Var,
        values: Var,
        *,
        dim: int,
        context_dim: int,
        **static: Any,
    ) -> tuple[Var, Var, Var]:
        """The block for one token against the cached keys and values, its own and the context's."""
        seen, state = (context_keys, context_values), DecodeState(position, mask, keys, values)
        return step(b, x, seen, state, dim, context_dim, static)

    return recall if recalls else decode


@cache
def _remember_block(init: str) -> BlockBody:
    @module_class("ContextBlock", "remember", context="B L context_dim")
    def remember(b: Builder, context: Var, *, dim: int, context_dim: int, **static: Any) -> tuple[Var, Var]:
        """Keys and values of the context."""
        sizes = {"dim": dim, "context_dim": context_dim, "heads": static["heads"]}
        return b.sub("cross_attn", context_memory(init), context, out="keys values", **sizes)  # type: ignore[no-any-return]

    return remember
