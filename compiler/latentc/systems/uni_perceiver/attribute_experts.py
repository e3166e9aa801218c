"""Experts that the condition chooses, for all tokens of a sample: their weights are merged before they are used.

Beside mixture_of_experts: there every token has experts of its own, so that weights cannot be merged.

Symbols: B batch, T tokens, D (`dim`) width, E experts, F (`hidden`) their hidden width.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.parts import FeedForward, Problem, Spec
from latentc.ir.builder import BlockBody, Builder, Var, module_class
from latentc.systems.uni_perceiver.merged_experts import ExpertRouter


class AttributeExperts(FeedForward, ExpertRouter):
    """Conditional experts routed by attributes (Uni-Perceiver-MoE, Zhu et al. 2022, arXiv:2206.04674).

    The condition c, such as the embedded class, selects K of E experts for a whole sample. Both linear layers use the
    experts' weights summed by score, with scores that add up to 1 if K > 1, so there is one matmul per layer whatever
    the number of experts. With `attributes`, these select them for each part of all sequences.
    """

    kind: Literal["attribute_experts"]
    ratio: float = Field(4.0, gt=0, description="hidden width of an expert, as a multiple of the width")
    approximate: Literal["tanh", "none"] = Field("none", description="GELU with the tanh approximation, or exact")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "attribute_experts", "experts": 3, "ratio": 2}

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from self.problems_of_choice()

    @property
    def takes_vector(self) -> bool:
        return self.attributes is None

    @property
    def parted(self) -> bool:
        return self.parts > 1

    def static(self, dim: int) -> dict[str, Any]:
        return {"hidden": int(dim * self.ratio), "experts": self.experts}

    def apply(self, b: Builder, name: str, x: Var, init: str, c: Var | None = None, **static: Any) -> Var:
        cond = () if c is None else (c,)
        return b.sub(name, _forward(self, init), x, *cond, **static)


@cache
def _forward(config: AttributeExperts, init: str) -> BlockBody:
    @module_class("AttributeExperts")
    def mixture(b: Builder, x: Var, *c: Var, dim: int, hidden: int, experts: int, lead: int = 0) -> Var:
        """Two linear layers with GELU between them, of the experts that c chooses."""
        merged = config.merged(b, c[0] if c else None, dim, experts, lead)
        h = merged.dense(b, "fc1", x, hidden, True, init)
        h = b.gelu(h, approximate=config.approximate, out="h")
        return merged.dense(b, "fc2", h, dim, True, init)

    if config.attributes is not None:
        mixture.body.__doc__ = "Two linear layers with GELU between them, of the experts that attributes choose."
    return mixture
