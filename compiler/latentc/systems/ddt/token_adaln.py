"""A condition for each token as scale, shift and gate of every block.

Symbols: B batch, T tokens, D width.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from latentc.components.blocks.conditions.adaln_zero import AdalnZero
from latentc.components.decoding import Given
from latentc.components.parts import BlockInput, Mixer, dense
from latentc.ir.builder import Builder, Var


class TokenAdaln(AdalnZero):
    """Norms are scaled and shifted and branches gated by a linear map of the condition of each token (DDT, Wang et al.
    2025, arXiv:2504.05741). The map starts as usual, not at zero.
    """

    kind: Literal["token_adaln"]  # type: ignore[assignment]
    TAKES: ClassVar[BlockInput] = "a vector for each token"
    OPERANDS: ClassVar[tuple[str, ...]] = ("s",)  # not c, which other parts take as one vector of the sample
    WEIGHTS: ClassVar[str] = "linear_default"
    """How the linear map of a block starts; that of the last layer starts at zero."""
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "token_adaln"}

    def names(self, mixer: Mixer, masked: bool) -> tuple[str, str]:
        doc = "A transformer block; s [B, 1 or T, D] scales, shifts and gates both branches, for each token."
        return ("MaskedTokenBlock", f"{doc[:-1]}; tokens see those in `mask`.") if masked else ("TokenBlock", doc)

    def activated(self, b: Builder, s: Var) -> Var:
        """The input of the linear maps, of the condition [B, 1 or T, D]."""
        return s

    def modulation(self, b: Builder, given: Given, mixer: Mixer, dim: int) -> dict[str, Var]:
        """The linear map of the condition, by the names of its outputs [B, 1 or T, D]."""
        s, names = self.activated(b, given.values["s"]), self.modulations(mixer)
        out = dense(b, "adaLN", s, len(names) * dim, True, self.WEIGHTS, out="modulation")
        return dict(zip(names, b.split(out, axis=2, sizes=(dim,) * len(names), out=" ".join(names)), strict=True))

    def final_modulation(self, b: Builder, c: Var, width: Any) -> tuple[Var, Var]:
        out = dense(b, "adaLN", self.activated(b, c), 2 * width, True, "zeros", out="modulation")
        shift, scale = b.split(out, axis=2, sizes=(width, width), out="shift scale")
        return shift, scale
