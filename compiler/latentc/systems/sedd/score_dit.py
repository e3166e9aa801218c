"""A DiT that estimates ratios of probabilities of tokens: SEDD's network.

Symbols: B batch, T tokens of a sample, S values of a token in the state: V of the vocabulary, and the mask if there is
one.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.backbone import add_method
from latentc.components.capabilities import Capability
from latentc.components.condition import Entry, TimeEmbedding
from latentc.components.contract import Network
from latentc.components.parts import Spec
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, items, module_class
from latentc.systems.mdlm.sequence_dit import POSITIONS, SequenceDit, conditioned, embedded, final_layer, narrow
from latentc.systems.sedd.score_entropy import ScoreEntropyLoss


class ScoreDit(SequenceDit):
    """Log ratios of the probabilities of a token's values to that of its own (SEDD, Lou et al. 2024, arXiv:2310.16834).

    `forward`: idx i64[B, T], sigma f32[B], the conditions -> f32[B, T, S], 0 for the value itself. Of a chain that
    masks, log(expm1(sigma)) and log(S - 1) are subtracted from the others.
    """

    kind: Literal["score_dit"]  # type: ignore[assignment]
    time: Literal["noise"] = Field("noise", description="the time's embedding is that of sigma")
    EXAMPLE: ClassVar[dict[str, Any]] = {**SequenceDit.EXAMPLE, "kind": "score_dit"}

    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"score_tokens"})

    def static(self, spec: Spec) -> dict[str, Any]:
        given = super().static(spec)
        assert spec.data.tokens is not None
        return given if _masks(spec) else {**given, "states": spec.data.tokens.vocabulary}

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        time, tokens = spec.time, spec.data.tokens
        assert isinstance(time, TimeEmbedding) and tokens is not None
        state, *others = self.ports(spec)
        if not _masks(spec):
            state = replace(state, values=tokens.vocabulary, null=None)
        body = _network(self, time, self.entries(spec), _masks(spec))
        method = add_method(mb, name, "forward", body, (state, *others), self.static(spec), ("logits",))
        return Network(name, {"forward": method}, self.PROVIDES)


def _masks(spec: Spec) -> bool:
    return not isinstance(spec.objective, ScoreEntropyLoss) or spec.objective.graph == "absorb"


@cache
def _network(config: ScoreDit, time: TimeEmbedding, entries: tuple[Entry, ...], masks: bool) -> BlockBody:
    mixer, feed_forward, norm, condition = config.block.parts()
    block = narrow(condition.block(mixer, feed_forward, norm, config.weights))

    @module_class("ScoreDiT", idx="B length")
    def forward(
        b: Builder,
        idx: Var,
        sigma: Var,
        *others: Var,
        states: int,
        length: int,
        width: int,
        depth: int,
        condition_width: int,
        **static: Any,
    ) -> Var:
        """Log ratios of the probability of every value of each token to that of its own."""
        c = conditioned(b, time, sigma, entries, others, idx, condition_width, static)
        x = embedded(b, config, idx, states, length, width)
        rotary = POSITIONS.rotary(b, static.get("head_width", width // config.block.heads(static)), 0, length)
        sizes = config.block.own(width, static)
        for name in items("blocks", depth):
            x = b.sub(name, block, x, c, *rotary, dim=width, condition_width=condition_width, **sizes)
        sizes = {"dim": width, "condition_width": condition_width, "states": states}
        x = b.sub("final_layer", final_layer(condition, norm), x, c, **sizes, out="scores")
        if masks:
            level = b.log(b.exp(sigma) - 1.0)
            level = b.add(level, math.log(int(states) - 1), out="level")
            x = b.op("sub", x, b.reshape(level, shape=(idx.shape[0], 1, 1)), out="scores")
        own = b.equal(b.reshape(idx, shape=(*idx.shape, 1)), b.arange(states), out="own")
        return b.where(own, b.scalar(0.0, x), x, out="log_score")

    return forward
