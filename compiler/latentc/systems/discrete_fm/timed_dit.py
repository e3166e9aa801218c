"""The network of discrete flow matching: MDLM's, given the time.

Symbols: B batch, T tokens of a sample, S values of a token in the state: V of the vocabulary, and the mask if there is
one.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.capabilities import Capability
from latentc.components.contract import Port
from latentc.components.parts import Spec
from latentc.systems.discrete_fm.discrete_flow_matching import DiscreteFlowMatching
from latentc.systems.mdlm.sequence_dit import SequenceDit


class TimedDit(SequenceDit):
    """Predicts the data's tokens from noisy ones and their time (Gat et al. 2024, arXiv:2407.15595).

    `forward`: idx i64[B, T], t f32[B] from 0 (source) to 1 (data), the conditions -> logits f32[B, T, S]. The mask is a
    value of a token only if the objective's source is masks; it is never drawn.
    """

    kind: Literal["timed_dit"]  # type: ignore[assignment]
    time: Literal["noise"] = Field("noise", description="the time's embedding is that of t")
    EXAMPLE: ClassVar[dict[str, Any]] = {**SequenceDit.EXAMPLE, "kind": "timed_dit"}

    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"denoise_tokens"})

    def ports(self, spec: Spec) -> tuple[Port, ...]:
        state, time, *conditions = super().ports(spec)
        if not _masks(spec):
            assert spec.data.tokens is not None
            state = replace(state, values=spec.data.tokens.vocabulary, null=None)
        return (state, replace(time, name="t"), *conditions)

    def static(self, spec: Spec) -> dict[str, Any]:
        return {**super().static(spec), "states": self.ports(spec)[0].values}


def _masks(spec: Spec) -> bool:
    return not isinstance(spec.objective, DiscreteFlowMatching) or spec.objective.source == "mask"
