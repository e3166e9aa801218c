"""The condition as scale, shift and gate of every block: one linear map of all blocks, and a low-rank one of each.

Symbols: B batch, D width.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.blocks.conditions.adaln_zero import AdalnZero
from latentc.components.decoding import Given
from latentc.components.parts import Mixer, Refusal, dense
from latentc.ir.builder import Builder, Var


class AdalnLora(AdalnZero):
    """Norms are scaled and shifted and branches gated by the sum of two maps of the condition: one linear layer, shared
    by all blocks, and two layers of each block with `rank` channels between (FiTv2, Wang et al. 2024,
    arXiv:2410.13925). Both start at zero.
    """

    kind: Literal["adaln_lora"]  # type: ignore[assignment]
    rank: int = Field(288, gt=0, le=65_536, description="channels between the two layers of each block")
    OPERANDS: ClassVar[tuple[str, ...]] = ("c_shared",)
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "adaln_lora", "rank": 4}

    def names(self, mixer: Mixer, masked: bool) -> tuple[str, str]:
        doc = "A transformer block: c_shared [B, 7 D], the condition and the map of all blocks, modulates both branches"
        if masked:
            return "MaskedFiTBlock", f"{doc}; tokens see those where `mask` is true."
        return "FiTBlock", f"{doc}."

    def shared(self, b: Builder, c: Var, width: Any) -> Var:
        modulation = dense(b, "adaLN", b.silu(c), 6 * width, True, "zeros", out="modulation")
        return b.concat(c, modulation, axis=1, out="c_shared")

    def modulation(self, b: Builder, given: Given, mixer: Mixer, dim: int) -> dict[str, Var]:
        names = self.modulations(mixer)
        count = len(names) * dim
        if int(given.values["c_shared"].shape[1]) != int(dim) + int(count):
            message = f"`{self.kind}` needs the map of all blocks, which this network does not have"
            raise Refusal(message, "use a `patch_transformer` or a `fit_transformer`", part=self)
        c, shared = b.split(given.values["c_shared"], axis=1, sizes=(dim, count), out="c shared")
        low = dense(b, "adaLN.down", b.silu(c), self.rank, True, "xavier", out="low")
        out = b.add(dense(b, "adaLN.up", low, count, True, "zeros"), shared, out="modulation")
        out = b.reshape(out, shape=(c.shape[0], 1, count), out="modulation")
        return dict(zip(names, b.split(out, axis=2, sizes=(dim,) * len(names), out=" ".join(names)), strict=True))
