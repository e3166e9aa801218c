"""A vector per token as scale, shift and gate of every block."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from latentc.components.blocks.conditions.adaln_zero import AdalnZero
from latentc.components.decoding import Given
from latentc.components.parts import BlockInput, Mixer, dense
from latentc.ir.builder import Builder, Var


class TokenAdaln(AdalnZero):
    """AdaLN-Zero whose scales, shifts and gates come from a vector per token, such as the class plus its step."""

    TAKES: ClassVar[BlockInput] = "a vector per token"

    kind: Literal["token_adaln"]  # type: ignore[assignment]
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "token_adaln"}

    def names(self, mixer: Mixer, masked: bool) -> tuple[str, str]:
        words = "A transformer block whose tokens are scaled, shifted and gated by their own vectors c [B, N, D]."
        return ("Masked" if masked else "") + "TokenAdalnBlock", words

    def modulation(self, b: Builder, given: Given, mixer: Mixer, dim: int) -> dict[str, Var]:
        c, names = given.values["c"], self.modulations(mixer)
        out = dense(b, "adaLN", b.silu(c), len(names) * dim, True, "zeros", out="modulation")
        return dict(zip(names, b.split(out, axis=2, sizes=(dim,) * len(names), out=" ".join(names)), strict=True))
