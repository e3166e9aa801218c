"""Scale, shift and gate of every block, from a condition per token."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from latentc.components.blocks.conditions.adaln_zero import AdalnZero
from latentc.components.decoding import Given
from latentc.components.parts import BlockInput, Mixer, dense
from latentc.ir.builder import Builder, Var


class StepwiseAdaln(AdalnZero):
    """As `adaln_zero`, with a condition s f32[B, T, D] per token (TokenBridge, Wang et al. 2025, arXiv:2503.16430)."""

    kind: Literal["stepwise_adaln"]  # type: ignore[assignment]
    TAKES: ClassVar[BlockInput] = "a vector per step"
    OPERANDS: ClassVar[tuple[str, ...]] = ("s",)  # not c, which other parts take as one vector of the sample
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "stepwise_adaln"}

    def names(self, mixer: Mixer, masked: bool) -> tuple[str, str]:
        doc = "A transformer block whose branches s [B, T, D] scales, shifts and gates token by token."
        return f"{'Masked' * masked}StepwiseBlock", doc

    def modulation(self, b: Builder, given: Given, mixer: Mixer, dim: int) -> dict[str, Var]:
        s, names = given.values["s"], self.modulations(mixer)
        out = dense(b, "adaLN", b.silu(s), len(names) * dim, True, "zeros", out="modulation")
        return dict(zip(names, b.split(out, axis=2, sizes=(dim,) * len(names), out=" ".join(names)), strict=True))
