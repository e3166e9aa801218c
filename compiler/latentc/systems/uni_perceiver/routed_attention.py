"""Attention whose projections are those of experts.

Symbols: B batch, T tokens, D width, E size of the condition.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.blocks.mixers.attention import Attention, Call
from latentc.components.decoding import Given
from latentc.components.parts import Problem, Refusal, Spec, condition_of, under
from latentc.ir.builder import Var
from latentc.systems.uni_perceiver.merged_experts import ExpertRouter


class RoutedAttention(Attention):
    """Attention whose four projections are those of experts (Uni-Perceiver-MoE, Zhu et al. 2022).

    The condition selects the experts, or attributes do, which take whole sequences only.
    """

    kind: Literal["routed_attention"]  # type: ignore[assignment]
    routed: ExpertRouter = Field(description="how the experts are selected")
    CLASS: ClassVar[tuple[str, str]] = (
        "RoutedAttention",
        "Multi-head self-attention, whose projections are those of experts",
    )
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "routed_attention", "heads": 2, "routed": {"experts": 3}}

    @property
    def needs(self) -> tuple[str, ...]:
        return ("lead",) if self.routed.parts > 1 else ()

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from super().problems(spec)
        yield from under("routed", problems=self.routed.problems_of_choice())

    def static(self, dim: int) -> dict[str, Any]:
        return {**super().static(dim), "attention_experts": self.routed.experts}

    def further(self, given: Given) -> tuple[Var, ...]:
        if not self.routed.parts:
            return (condition_of(self, given) if given.router is None else given.router,)
        if given.form.cached:
            message = (
                "projections of experts that attributes choose take whole sequences, but this network keeps a cache"
            )
            raise Refusal(message, "leave out `attributes`, or use `{kind: attention}`", ("routed", "attributes"), self)
        return ()

    def attended(self, call: Call, x: Var) -> tuple[Var, ...]:
        sizes, c = call.sizes, call.more[0] if call.more else None
        experts = self.routed.merged(call.b, c, call.dim, sizes["attention_experts"], sizes.get("lead", 0))
        return super().attended(replace(call, sizes={**sizes, "merged": experts}), x)

    def layer(self, call: Call, name: str, x: Var, features: Any, bias: bool, out: str) -> Var:
        return call.sizes["merged"].dense(call.b, name, x, features, bias, call.init)
