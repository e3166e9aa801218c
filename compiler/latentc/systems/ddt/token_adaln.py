"""A condition for each token as scale, shift and gate of every block, by maps that start as usual.

Symbols: B batch, T tokens, D width.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from latentc.components.blocks.conditions.stepwise_adaln import StepwiseAdaln
from latentc.components.parts import Mixer, dense
from latentc.ir.builder import Builder, Var


class TokenAdaln(StepwiseAdaln):
    """Norms are scaled and shifted and branches gated by a linear map of the condition of each token (DDT, Wang et al.
    2025, arXiv:2504.05741). The map starts as usual, not at zero; that of the last layer starts at zero.
    """

    kind: Literal["token_adaln"]  # type: ignore[assignment]
    WEIGHTS: ClassVar[str] = "linear_default"
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "token_adaln"}

    def names(self, mixer: Mixer, masked: bool) -> tuple[str, str]:
        doc = "A transformer block; s [B, 1 or T, D] scales, shifts and gates both branches, for each token."
        return ("MaskedTokenBlock", f"{doc[:-1]}; tokens see those in `mask`.") if masked else ("TokenBlock", doc)

    def activated(self, b: Builder, s: Var) -> Var:
        return s

    def final_modulation(self, b: Builder, c: Var, width: Any) -> tuple[Var, Var]:
        out = dense(b, "adaLN", self.activated(b, c), 2 * width, True, "zeros", out="modulation")
        shift, scale = b.split(out, axis=2, sizes=(width, width), out="shift scale")
        return shift, scale
