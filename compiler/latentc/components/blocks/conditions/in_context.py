"""Conditions as tokens of the sequence: blocks do not depend on them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from latentc.components import Component, OneOf
from latentc.components.blocks.mixing import apart
from latentc.components.blocks.stochastic_depth import dropped
from latentc.components.decoding import Given
from latentc.components.parts import BlockCondition, BlockInput, BlockParts, Mix, Mixer, Norm, Problem, Spec, TokenNorm
from latentc.ir.builder import Builder, Var, f32


class InContext(BlockCondition):
    """Residual blocks, pre-norm by default; the condition is a token of the sequence (GPT, LLaMA, LlamaGen)."""

    kind: Literal["in_context"]
    norm_after: bool = Field(
        False, description="post-norm, as in BERT: norms follow the residual sums instead of preceding the branches"
    )
    gated: bool = Field(False, description="branches are scaled by learned vectors, initially zero")
    front: Literal["shared", "own"] = Field(
        "shared",
        description="weights for tokens in front of the sample's, such as captions: shared, or separate in every "
        "linear layer and norm, so that only attention mixes both (MM-DiT, Esser et al. 2024, arXiv:2403.03206)",
    )
    branch_norm: Annotated[Component | None, OneOf("blocks/norms", base=TokenNorm)] = Field(
        None,
        description="norm of each branch's output before it is added, in addition to the pre-norm (STARFlow's "
        "`use_post_norm`)",
    )
    TAKES: ClassVar[BlockInput] = None
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "in_context"}

    @property
    def separates(self) -> bool:
        return self.front == "own"

    def problems(self, spec: Spec) -> Iterator[Problem]:
        if self.norm_after and self.gated:
            message = "`gated` scales the branches of pre-norm blocks, but `norm_after` makes the blocks post-norm"
            yield Problem(("gated",), message, "leave out one of them")

    def names(self, mixer: Mixer, masked: bool) -> tuple[str, str]:
        if masked:
            return "MaskedBlock", "A pre-norm transformer block that sees the tokens where `mask` is true."
        scaled = " whose branches are scaled by channel" if self.gated else ""
        return "TransformerBlock", f"A {'post' if self.norm_after else 'pre'}-norm transformer block{scaled}."

    def branches(
        self, b: Builder, x: Var, given: Given, mix: Mix, parts: BlockParts, dim: int, static: Mapping[str, Any]
    ) -> Var:
        after, front = self.norm_after, static.get("front", 0)

        def gated(name: str, h: Var) -> Var:
            if isinstance(self.branch_norm, Norm):
                h = normed(f"{name}_norm", h, self.branch_norm)
            if self.gated:
                h = apart(b, h, front, lambda part, own: part * b.param(f"{own}{name}_scale", f32(dim), "zeros"))
            return dropped(b, h, static)

        def normed(name: str, x: Var, norm: Norm = parts.norm) -> Var:
            return apart(b, x, front, lambda part, own: norm.apply(b, f"{own}{name}", part))

        def fed(x: Var) -> Var:
            return apart(b, x, front, lambda part, own: parts.fed(b, part, dim, static, f"{own}mlp"))

        x = x + gated("attn", mix(x if after else normed("norm1", x)))
        x = normed("norm1", x) if after else x
        x = x + gated("mlp", fed(x if after else normed("norm2", x)))
        return normed("norm2", x) if after else x
