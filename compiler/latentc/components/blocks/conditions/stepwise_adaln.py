"""A condition for each token as scale, shift and gate of every block.

Symbols: B batch, T tokens, D width.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from latentc.components.blocks.conditions.adaln_zero import AdalnZero
from latentc.components.decoding import Given
from latentc.components.parts import BlockInput, Mixer, dense
from latentc.ir.builder import Builder, Var


class StepwiseAdaln(AdalnZero):
    """As `adaln_zero`, with a condition s f32[B, 1 or T, D] for each token: of the class and the step of a sequence
    (RAR, Yu et al. 2024, arXiv:2411.00776; TokenBridge, Wang et al. 2025, arXiv:2503.16430)."""

    kind: Literal["stepwise_adaln"]  # type: ignore[assignment]
    TAKES: ClassVar[BlockInput] = "a vector for each token"
    OPERANDS: ClassVar[tuple[str, ...]] = ("s",)  # not c, which other parts take as one vector of the sample
    WEIGHTS: ClassVar[str] = "zeros"
    """How the linear map of a block starts."""
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "stepwise_adaln"}

    def names(self, mixer: Mixer, masked: bool) -> tuple[str, str]:
        doc = "A transformer block whose tokens are scaled, shifted and gated by vectors s [B, 1 or T, D] of their own."
        return f"{'Masked' * masked}StepwiseBlock", doc

    def activated(self, b: Builder, s: Var) -> Var:
        """The input of the linear maps, of the condition [B, 1 or T, D]."""
        return b.silu(s)

    def modulation(self, b: Builder, given: Given, mixer: Mixer, dim: int) -> dict[str, Var]:
        """The linear map of the condition, by the names of its outputs [B, 1 or T, D]."""
        s, names = self.activated(b, given.values["s"]), self.modulations(mixer)
        out = dense(b, "adaLN", s, len(names) * dim, True, self.WEIGHTS, out="modulation")
        return dict(zip(names, b.split(out, axis=2, sizes=(dim,) * len(names), out=" ".join(names)), strict=True))
