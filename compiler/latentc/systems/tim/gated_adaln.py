"""The condition as scale, shift and gate of every block, by a gated feed-forward layer.

Symbols: B batch, D width.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.blocks.conditions.adaln_zero import AdalnZero
from latentc.components.decoding import Given
from latentc.components.parts import Mixer, dense
from latentc.ir.builder import Builder, Var, module_class
from latentc.systems.tim.distance_attention import condition_and_span


class GatedAdaln(AdalnZero):
    """Norms are scaled and shifted and branches gated by w2(silu(w1 c) * w3 c) of the condition c, with w2 = 0 at first
    (TiM, Wang et al. 2025, arXiv:2509.04394). The last layer has a hidden width of half the width.
    """

    kind: Literal["gated_adaln"]  # type: ignore[assignment]
    hidden: int = Field(384, gt=0, le=1_048_576, description="hidden width of this layer in each block")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "gated_adaln", "hidden": 8}

    def names(self, mixer: Mixer, masked: bool) -> tuple[str, str]:
        doc = "A transformer block: c [B, D] scales, shifts and gates both branches; the span [B, D] follows it."
        return (
            ("MaskedTransitionBlock", f"{doc[:-1]}; tokens see those in `mask`.")
            if masked
            else ("TransitionBlock", doc)
        )

    def modulation(self, b: Builder, given: Given, mixer: Mixer, dim: int) -> dict[str, Var]:
        c, _ = condition_and_span(b, self, given.values["c"], dim)
        names = self.modulations(mixer)
        out = b.sub("adaLN", _modulation, c, dim=dim, hidden=self.hidden, out_dim=len(names) * dim, out="modulation")
        return dict(zip(names, b.split(out, axis=2, sizes=(dim,) * len(names), out=" ".join(names)), strict=True))

    def final_modulation(self, b: Builder, c: Var, width: Any) -> tuple[Var, Var]:
        out = b.sub("adaLN", _modulation, c, dim=width, hidden=width // 2, out_dim=2 * width, out="modulation")
        shift, scale = b.split(out, axis=2, sizes=(width, width), out="shift scale")
        return shift, scale


@module_class("Modulation", c="B dim")
def _modulation(b: Builder, c: Var, *, dim: int, hidden: int, out_dim: int) -> Var:
    """w2(silu(w1 c) * w3 c) of the condition, for all tokens alike."""
    h = b.silu(dense(b, "w1", c, hidden, True, "xavier"), out="h") * dense(b, "w3", c, hidden, True, "xavier")
    out = dense(b, "w2", h, out_dim, True, "zeros", out="out")
    return b.reshape(out, shape=(c.shape[0], 1, out_dim), out="out")
