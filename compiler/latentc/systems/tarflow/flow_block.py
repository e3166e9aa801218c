"""One autoregressive flow of a transformer_flow: a causal transformer that normalises tokens.

Symbols: B batch, T tokens, L tokens of conditions before them, C channels of a token (`features`), D width (`dim`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, reduce
from typing import Any, Literal

from latentc.components.blocks.block import Block
from latentc.components.condition import Entry, with_operands
from latentc.components.parts import Norm, Weights, dense
from latentc.components.sums import summed
from latentc.ir.builder import BlockBody, Builder, Var, f32, items, module_class

_SOFTPLUS_OF_ONE = 0.541324854612918
"""softplus of this is 1."""


@dataclass(frozen=True)
class Flow:
    """The parts of one flow.

    `entries`: the conditions it takes. `prefix`: their tokens stand before those of the sample, this many; 0: their
    embeddings are added to every token. `rotary`: tokens know their place by rotary tables; else by a learned table.
    """

    block: Block
    init: Weights
    entries: tuple[Entry, ...]
    prefix: int = 0
    rotary: bool = False
    start: bool = False
    scale_by: Literal["exp", "softplus", "none"] = "exp"
    soft_clip: float | None = None
    final_norm: Norm | None = None
    guides: str = "both"
    frame: int = 0  # tokens per frame, if it processes the frames of a video one after the other
    apart: int = 1  # frames of a sample, if it processes them separately

    @property
    def cls(self) -> str:
        """The name of its class."""
        return "PrefixedFlowBlock" if self.prefix else "FlowBlock"

    @property
    def scales(self) -> bool:
        """True if tokens are scaled, not only shifted."""
        return self.scale_by != "none"

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the network's outputs of C channels each: the logarithms of scales, if any, then shifts."""
        return ("raw_scale" if self.scale_by == "softplus" else "log_scale", "shift")[not self.scales :]

    @property
    def first(self) -> int:
        """The first token that is predicted: without a start token the flow leaves the first as it is."""
        return 0 if self.start else 1

    def vectors(self, b: Builder, operands: Sequence[Var], dim: Any, sizes: Mapping[str, Any]) -> list[Var]:
        """The conditions that each step takes: [f32[B, 1, D]], the sum of their embeddings, or nothing."""
        if self.prefix:
            return []
        vectors = [
            entry.vector(b, f"{entry.name}_embed", own, dim, sizes)
            for entry, own in with_operands(self.entries, operands)
        ]
        if not vectors:
            return []
        total = summed(b, "c", vectors)
        return [b.reshape(total, shape=(total.shape[0], 1, dim), out="c")]

    def prefix_tokens(self, b: Builder, operands: Sequence[Var], dim: Any, sizes: Mapping[str, Any]) -> list[Var]:
        """[f32[B, L, D]]: the tokens of the conditions, or nothing."""
        if not self.prefix:
            return []
        tokens = [
            entry.tokens(b, f"{entry.name}_embed", own, dim, sizes)[0]
            for entry, own in with_operands(self.entries, operands)
        ]
        return [tokens[0] if len(tokens) == 1 else b.concat(*tokens, axis=1, out="context")]

    def embedded(self, b: Builder, x: Var, places: Var, cond: Sequence[Var], tokens: Any, dim: Any) -> Var:
        """f32[B, N, D]: inputs x f32[B, N, C] of the tokens at `places` of the grid, with the conditions."""
        h = dense(b, "proj_in", x, dim, True, self.init, out="h")
        if not self.rotary:
            table = b.param("pos_embed", f32(tokens, dim), "normal", std=0.01)
            h = b.add(h, b.take(table, places, axis=0, out="positions"), out="h")
        return reduce(lambda h, c: b.add(h, c, out="h"), cond, h)

    def start_token(self, b: Builder, like: Var, features: Any) -> Var:
        """f32[B, 1, C]: the input from which the first token is predicted."""
        start = b.param("start", f32(1, 1, features), "normal", std=1.0)
        return b.broadcast_to(start, like, shape=(like.shape[0], 1, features), out="start")

    def predictions(self, b: Builder, h: Var, features: Any) -> Var:
        """f32[B, N, 2 C or C] of what comes out of the blocks: `outputs` side by side."""
        if self.final_norm is not None:
            h = self.final_norm.apply(b, "final_norm", h)
        h = dense(b, "proj_out", h, 2 * features if self.scales else features, True, "zeros", out="h")
        if self.soft_clip is None:
            return h
        return b.mul(b.tanh(h * (1 / self.soft_clip)), self.soft_clip, out="h")

    def separate(self, b: Builder, h: Var, features: Any) -> list[Var]:
        """The `outputs` in `predictions` h, each f32[B, N, C]."""
        if not self.scales:
            return [h]
        return list(b.split(h, axis=2, sizes=(features, features), out=" ".join(self.outputs)))

    def scale(self, b: Builder, raw: Var) -> Var:
        """The positive scale f32[B, N, C] for the network's output `raw`."""
        if self.scale_by == "exp":
            return b.exp(raw, out="scale")
        return b.softplus(raw + _SOFTPLUS_OF_ONE, out="scale")


@cache
def flow(parts: Flow) -> BlockBody:
    mixer, feed_forward, norm, condition = parts.block.parts()
    block = condition.block(mixer, feed_forward, norm, parts.init)

    @module_class(parts.cls, x="B tokens features", order="tokens")
    def forward(
        b: Builder,
        x: Var,
        order: Var,
        *others: Var,
        features: int,
        tokens: int,
        dim: int,
        depth: int,
        **static: Any,
    ) -> tuple[Var, ...]:
        """Normalises each token by a scale and shift that depend on the tokens before it in `order`."""
        rotary, conditions = others[: 2 * parts.rotary], others[2 * parts.rotary :]
        x = b.take(x, order, axis=1, out="x")
        inputs = x
        if parts.start:
            before = b.slice(x, axis=1, start=0, stop=tokens - 1)
            inputs = b.concat(parts.start_token(b, x, features), before, axis=1, out="inputs")
            inputs = b.reshape(inputs, shape=x.shape, out="inputs")
        h = parts.embedded(b, inputs, order, parts.vectors(b, conditions, dim, static), tokens, dim)
        for context in parts.prefix_tokens(b, conditions, dim, static):
            h = b.concat(context, h, axis=1, out="h")
        for name in items("attn_blocks", depth):
            h = b.sub(name, block, h, *rotary, dim=dim, out="h", **parts.block.own(dim, static))
        if parts.prefix:
            h = b.slice(h, axis=1, start=parts.prefix, stop=parts.prefix + tokens, out="h")
            h = b.reshape(h, shape=(x.shape[0], tokens, dim), out="h")
        h = parts.predictions(b, h, features)
        if not parts.start:
            # A token's features predict the next token; nothing predicts the first, which stays unchanged.
            h = b.slice(h, axis=1, start=0, stop=tokens - 1, out="h")
            h = b.pad(h, axis=1, before=1, after=0, value=0.0, out="h")
        *raws, shift = parts.separate(b, h, features)
        if not raws:
            return (b.take(x - shift, order, axis=1, out="z"),)
        (raw,) = raws
        if parts.scale_by == "softplus":
            scale = parts.scale(b, raw)
            z, log_scale = b.div(x - shift, scale, out="z"), b.log(scale, out="log_scale")
        else:
            z, log_scale = b.mul(x - shift, b.exp(-raw), out="z"), raw
        log_det = b.neg(b.mean(log_scale, axes=(1, 2), keepdims=False), out="log_det")
        return b.take(z, order, axis=1, out="z"), log_det  # `order` is its own inverse

    if not parts.scales:
        forward.body.__doc__ = "Shifts each token by a vector that depends on the tokens before it in `order`."
    return forward


_MOMENTUM = 0.9
"""Part of the prior's variances that a step of training keeps."""


def prior_variance(b: Builder, tokens: Any, features: Any) -> Var:
    """f32[T, C]: variances of the prior of flows that only shift."""
    return b.param("variance", f32(tokens, features), "ones", "state")


@module_class("TransformerFlow", "variances", z="B T=(size//patch)**2 C=channels*patch**2")
def variances(b: Builder, z: Var, **static: Any) -> Var:
    """The variances of the prior [T, C], which training then moves towards those of latents z."""
    kept = prior_variance(b, (static["size"] // static["patch"]) ** 2, static["channels"] * static["patch"] ** 2)
    return b.running_mean(z * z, kept, momentum=_MOMENTUM, out="variances")
