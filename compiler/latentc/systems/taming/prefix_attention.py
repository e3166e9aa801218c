"""Causal attention whose first tokens are visible to all.

Symbols: T tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.blocks.mixers.attention import Attention, Call
from latentc.components.decoding import UNSEEN
from latentc.components.networks.token_transformer import TokenTransformer, prefix_length
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import Var


class PrefixAttention(Attention):
    """Causal attention whose leading tokens, those of conditions, are visible to all tokens including each other.

    This is `n_unmasked` of taming transformers.
    """

    kind: Literal["prefix_attention"]  # type: ignore[assignment]
    causal: bool = Field(True, description="a token sees only the leading tokens, itself and earlier tokens")
    unmasked: int = Field(ge=0, le=1_048_576, description="number of leading tokens visible to all tokens")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "prefix_attention", "heads": 2, "unmasked": 1}

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from super().problems(spec)
        if not self.causal:
            yield Problem(("causal",), "all tokens are visible without a causal mask", "use `{kind: attention}`")
        networks = [net for net in spec.networks.values() if isinstance(net, TokenTransformer)]
        known = [prefix_length([e.ports[0] for e in net.entries(spec)]) for net in networks if self is net.block.mixer]
        most = min(known, default=1)  # other networks take tokens one by one
        if self.unmasked > most:
            message = f"all tokens see the first {self.unmasked}, but only {most} are known from the start"
            yield Problem(("unmasked",), message, f"use at most {most}")

    def mixed(self, call: Call, q: Var, k: Var, v: Var) -> Var:
        method = call.given.form.method
        if method == "decode" or not self.unmasked:
            return super().mixed(call, q, k, v)
        drop = {"dropout": self.weight_dropout} if self.weight_dropout else {}
        return call.b.attention(
            q, k, v, self._seen(call, k.shape[2]), causal=False, scale=self.scale(q), **drop, out="x"
        )

    def _seen(self, call: Call, tokens: Any) -> Var:
        """bool[1 or B, 1, T, T]: the visible tokens of each, those before it and the first; or a bias of the scores."""
        b, mask = call.b, call.given.mask
        place = b.arange(tokens, out="place")
        column = b.reshape(place, shape=(1, tokens), out="column")
        seen = b.less_equal(column, b.reshape(place, shape=(tokens, 1)), out="before")
        seen = b.reshape(b.logical_or(seen, b.less(column, self.unmasked)), shape=(1, 1, tokens, tokens), out="seen")
        if mask is None:
            return seen
        if mask.type.dtype == "bool":
            return b.logical_and(mask, seen, out="seen")
        return b.where(seen, mask, UNSEEN, out="bias")
