"""The condition as scale and shift of norms that follow the branches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from latentc.components.blocks.conditions.adaln_zero import AdalnZero
from latentc.components.blocks.stochastic_depth import dropped
from latentc.components.decoding import Given
from latentc.components.parts import BlockParts, Mix, Mixer, Norm
from latentc.ir.builder import Builder, Var


class PostNorm(AdalnZero):
    """AdaLN whose norms follow the branches, and scale and shift what these add, without gates.

    This is `post_norm` of efficientvit's DiT.
    """

    kind: Literal["post_norm"]  # type: ignore[assignment]
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "post_norm"}

    def modulations(self, mixer: Mixer) -> tuple[str, ...]:
        return "shift_msa", "scale_msa", "shift_mlp", "scale_mlp"

    def branches(
        self, b: Builder, x: Var, given: Given, mix: Mix, parts: BlockParts, dim: int, static: Mapping[str, Any]
    ) -> Var:
        values = self.modulation(b, given, parts.mixer, dim)

        def added(x: Var, branch: Var, name: str, norm: Norm, of: str) -> Var:
            h = norm.apply(b, name, branch) * values[f"scale_{of}"] + values[f"shift_{of}"]
            return x + dropped(b, h, static)

        x = added(x, mix(x), "norm1", parts.norm, "msa")
        return added(x, parts.fed(b, x, dim, static, given=given), "norm2", self.second_norm(parts.norm), "mlp")
