"""DiT whose every second block has a mixer of its own, and whose experts some conditions may choose."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from latentc.components import Component, OneOf
from latentc.components.networks.patch_transformer import PatchTransformer
from latentc.components.parts import Problem, Spec
from latentc.systems.uni_perceiver.merged_experts import routes


class PerceiverTransformer(PatchTransformer):
    """A patch_transformer whose every second block has another mixer, such as one with routed experts
    (Uni-Perceiver-MoE, Zhu et al. 2022, arXiv:2206.04674)."""

    kind: Literal["perceiver_transformer"]  # type: ignore[assignment]
    interleaved_mixer: Annotated[Component, OneOf("blocks/mixers")] = Field(
        description="mixer of every second block, starting with the second"
    )
    routed_by: tuple[str, ...] = Field(
        (),
        description="conditions whose embeddings choose the experts of blocks, and nothing else; empty: the sum of the "
        "time and all vectors chooses them",
    )
    EXAMPLE: ClassVar[dict[str, Any]] = {
        **PatchTransformer.EXAMPLE,
        "kind": "perceiver_transformer",
        "interleaved_mixer": {"kind": "attention", "heads": 4},
    }

    def interleaved_parts(self) -> dict[str, tuple[str, Component]]:
        return {"mixer": ("interleaved_mixer", self.interleaved_mixer), **super().interleaved_parts()}

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from super().problems(spec)
        vectors = [name for name, part in self.takes(spec).items() if self.form_of(part) == "vector"]
        for i, name in enumerate(self.routed_by):
            if name not in vectors:
                message = f"`{name}` is no condition of this network that enters as a vector"
                yield Problem(("routed_by", i), message, f"such conditions: {', '.join(vectors) or 'none'}")
        parts = [part for block in (self.block, self.second) for part in block.parts()[:2]]
        if self.routed_by and not any(routes(part) for part in parts):
            message = "no block has experts that a condition chooses"
            yield Problem(("routed_by",), message, "leave it out, or use `{kind: attribute_experts}`")

    def chooses_experts(self, condition: str) -> bool:
        return condition in self.routed_by
