"""The time inside norms, the rest as tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.decoding import Given
from latentc.components.parts import BlockCondition, BlockInput, BlockParts, Mix, Mixer
from latentc.ir.builder import Builder, Var
from latentc.systems.dimr.contextual_attention import contextual_attention
from latentc.systems.dimr.convnext_conv import ConvNextConv
from latentc.systems.dimr.timed_norms import SituatedNorm


class TimeNorm(BlockCondition):
    """Pre-norm residual blocks whose norms depend on the time (DiMR, Liu et al. 2024, arXiv:2406.09416)."""

    kind: Literal["time_norm"]
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout of the outputs of mixer and feed-forward, in training")
    context: bool = Field(
        False,
        description="tokens attend to conditions with several tokens, such as captions, through keys and values from "
        "a separate layer; otherwise these are joined to the tokens",
    )
    TAKES: ClassVar[BlockInput] = "the time"
    OPERANDS: ClassVar[tuple[str, ...]] = ("t",)
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "time_norm"}

    @property
    def takes_tokens(self) -> bool:
        return self.context

    @property
    def takes_any_width(self) -> bool:
        return self.context

    def names(self, mixer: Mixer, masked: bool) -> tuple[str, str]:
        cls = "ConvNeXtBlock" if isinstance(mixer, ConvNextConv) else "TimeNormBlock"
        return cls, "A pre-norm block whose norms depend on the time t [B, 1]."

    def branches(
        self, b: Builder, x: Var, given: Given, mix: Mix, parts: BlockParts, dim: int, static: Mapping[str, Any]
    ) -> Var:
        mixer, norm, t, grid = parts.mixer, parts.norm, given.values["t"], static.get("grid")

        def dropped(x: Var) -> Var:
            return b.dropout(x, p=self.dropout) if self.dropout else x

        def normed(name: str, x: Var) -> Var:
            return norm.at(b, name, x, t, grid) if isinstance(norm, SituatedNorm) else norm.apply(b, name, x)

        h = x if isinstance(mixer, ConvNextConv) else normed("norm1", x)
        if given.context:
            own = mixer.own(dim, static)
            x = x + dropped(contextual_attention(b, mixer, h, given.context, parts.init, dim=dim, **own))
        else:
            x = x + dropped(mix(h))
        return x + dropped(parts.fed(b, normed("norm2", x), dim, static))
