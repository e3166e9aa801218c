"""Attention of tokens to themselves and to a context, whose keys and values come from a layer of their own.

Symbols: B batch, T tokens, L tokens of the context, D width, E width of the context.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from latentc.components.blocks.heads import split_heads
from latentc.components.blocks.mixers.attention import Attention, Call
from latentc.components.decoding import Given
from latentc.components.parts import Mixer, Refusal, dense
from latentc.ir.builder import BlockBody, Builder, Var, module_class
from latentc.systems.dimr.axial_rotary import AxialAttention


def contextual_attention(
    b: Builder, mixer: Mixer, x: Var, context: Sequence[Var], init: str, dim: int, **static: Any
) -> Var:
    """x [B, T, D] mixed with itself and a context [B, L, E], perhaps with a mask bool[B, L].

    Refusal: of a mixer other than attention to all tokens.
    """
    if type(mixer) not in (Attention, AxialAttention) or mixer.ordered or set(mixer.static(int(dim))) != {"heads"}:
        message = f"`{mixer.kind}` with these options cannot attend to other tokens"
        help = "use `{kind: attention}` with `heads` only, or leave `context` out"
        raise Refusal(message, help, part=mixer)
    assert isinstance(mixer, Attention)
    sizes = {**static, "dim": dim, "context_dim": context[0].shape[2]}
    return b.sub("attn", _module(mixer, init), x, *context, **sizes)


@cache
def _module(config: Attention, init: str) -> BlockBody:
    @module_class("ContextualAttention", context="B L context_dim")
    def attention(
        b: Builder, x: Var, context: Var, *mask: Var, dim: int, heads: int, context_dim: int, **sizes: Any
    ) -> Var:
        """Multi-head self-attention, also to tokens of a context [B, L, E] where the mask [B, L] is true."""
        call = Call(b, init, Given(), dim, heads, None, sizes)
        q, k, v = config.heads_of(call, x)
        kv = dense(b, "context_kv", context, 2 * dim, config.value_bias, init, out="kv")
        parts = b.split(kv, axis=2, sizes=(dim, dim), out="context_k context_v")
        more = (split_heads(b, part, heads, dim // heads, part.value.name) for part in parts)
        k, v = (b.concat(own, of, axis=2, out=name) for own, of, name in zip((k, v), more, "kv", strict=True))
        values = {}
        if mask:
            own = b.full(x, shape=(x.shape[1],), value=1.0, dtype="bool", out="own")
            seen = b.concat(own, *mask, axis=1, out="seen")
            values["mask"] = b.reshape(seen, shape=(x.shape[0], 1, 1, seen.shape[1]), out="seen")
        call = Call(b, init, Given(values=values), dim, heads, None, sizes)
        return config.projected(call, config.mixed(call, q, k, v))

    return attention
