"""A condition for each cell of tokens as scale, shift and gate of every block.

Symbols: B batch, K cells, T tokens, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from latentc.components.blocks.conditions.stepwise_adaln import StepwiseAdaln
from latentc.components.decoding import Given
from latentc.components.parts import BlockInput, Mixer, dense
from latentc.ir.builder import Builder, Var


class CellAdaln(StepwiseAdaln):
    """As `adaln_zero`, with a condition s f32[B, K, D] for each of K cells of tokens, which follow each other (xAR, Ren
    et al. 2025, arXiv:2502.20388). The maps start as other layers do, not at zero; gates are the first of their
    outputs.
    """

    kind: Literal["cell_adaln"]  # type: ignore[assignment]
    TAKES: ClassVar[BlockInput] = "a vector for each cell"
    WEIGHTS: ClassVar[str] = "xavier"
    SHAPES: ClassVar[Mapping[str, str]] = {"x": "B T dim", "s": "B K dim"}
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "cell_adaln"}

    def names(self, mixer: Mixer, masked: bool) -> tuple[str, str]:
        doc = "A transformer block; s [B, K, D] scales, shifts and gates the tokens of each of K cells."
        return f"{'Masked' * masked}CellBlock", doc

    def modulations(self, mixer: Mixer) -> tuple[str, ...]:
        return "gate_msa", "gate_mlp", "scale_msa", "scale_mlp", "shift_msa", "shift_mlp"

    def modulation(self, b: Builder, given: Given, mixer: Mixer, dim: int) -> dict[str, Var]:
        """The linear map of the condition, by the names of its outputs [B, 1 or T, D]."""
        s, names = self.activated(b, given.values["s"]), self.modulations(mixer)
        (batch, tokens, _), cells = given.values["x"].shape, s.shape[1]
        out = dense(b, "adaLN", s, len(names) * dim, True, self.WEIGHTS, out="modulation")
        if int(cells) > 1:
            out = b.reshape(out, shape=(batch, cells, 1, len(names) * dim))
            out = b.broadcast_to(out, s, shape=(batch, cells, tokens // cells, len(names) * dim))
            out = b.reshape(out, shape=(batch, tokens, len(names) * dim), out="modulation")
        return dict(zip(names, b.split(out, axis=2, sizes=(dim,) * len(names), out=" ".join(names)), strict=True))
