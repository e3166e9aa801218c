"""DiT whose every second block has a mixer of its own."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from latentc.components import Component, OneOf
from latentc.components.networks.patch_transformer import PatchTransformer


class PerceiverTransformer(PatchTransformer):
    """A patch_transformer whose every second block has another mixer, such as one with routed experts
    (Uni-Perceiver-MoE, Zhu et al. 2022, arXiv:2206.04674)."""

    kind: Literal["perceiver_transformer"]  # type: ignore[assignment]
    interleaved_mixer: Annotated[Component, OneOf("blocks/mixers")] = Field(
        description="mixer of every second block, starting with the second"
    )
    EXAMPLE: ClassVar[dict[str, Any]] = {
        **PatchTransformer.EXAMPLE,
        "kind": "perceiver_transformer",
        "interleaved_mixer": {"kind": "attention", "heads": 4},
    }

    def interleaved_parts(self) -> dict[str, tuple[str, Component]]:
        return {"mixer": ("interleaved_mixer", self.interleaved_mixer), **super().interleaved_parts()}
