"""The class and the step of the sequence as scale, shift and gate of every block."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from latentc.components.blocks.conditions.adaln_zero import AdalnZero
from latentc.components.decoding import Given
from latentc.components.parts import BlockInput, Mixer, dense
from latentc.ir.builder import Builder, Var


class StepAdaln(AdalnZero):
    """AdaLN-Zero whose scales, shifts and gates come from a vector per token: the class plus the step of the sequence
    (RAR, Yu et al. 2024, arXiv:2411.00776).
    """

    TAKES: ClassVar[BlockInput] = "a vector per step"
    OPERANDS: ClassVar[tuple[str, ...]] = ("s",)  # not c, which other parts take as one vector of the sample

    kind: Literal["step_adaln"]  # type: ignore[assignment]
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "step_adaln"}

    def names(self, mixer: Mixer, masked: bool) -> tuple[str, str]:
        words = "A transformer block whose tokens are scaled, shifted and gated by their own vectors s [B, N, D]."
        return ("Masked" if masked else "") + "StepBlock", words

    def modulation(self, b: Builder, given: Given, mixer: Mixer, dim: int) -> dict[str, Var]:
        s, names = given.values["s"], self.modulations(mixer)
        out = dense(b, "adaLN", b.silu(s), len(names) * dim, True, "zeros", out="modulation")
        return dict(zip(names, b.split(out, axis=2, sizes=(dim,) * len(names), out=" ".join(names)), strict=True))
