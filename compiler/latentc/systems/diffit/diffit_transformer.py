"""DiT whose last layer does not depend on the condition."""

from __future__ import annotations

from functools import cache
from typing import Any, ClassVar, Literal

from latentc.components.networks.patch_transformer import PatchTransformer, projected
from latentc.components.parts import Norm
from latentc.ir.builder import BlockBody, Builder, Var, module_class


class DiffitTransformer(PatchTransformer):
    """A patch_transformer whose tokens are normalised and passed through SiLU before the last layer
    (DiffiT, Hatamizadeh et al. 2024, arXiv:2312.02139)."""

    kind: Literal["diffit_transformer"]  # type: ignore[assignment]
    EXAMPLE: ClassVar[dict[str, Any]] = {**PatchTransformer.EXAMPLE, "kind": "diffit_transformer"}

    def final_layer(self, b: Builder, norm: Norm, x: Var, c: Var, sequence: bool, **sizes: Any) -> Var:
        return b.sub("final_layer", _final_layer(self, norm, sequence), x, **sizes)


@cache
def _final_layer(config: DiffitTransformer, norm: Norm, sequence: bool) -> BlockBody:
    @module_class("FinalLayer")
    def final(b: Builder, x: Var, *, dim: int, **sizes: int) -> Var:
        """Normalises, activates and projects the tokens, then lays the patches out as an image."""
        return projected(b, config, b.silu(norm.apply(b, "norm_final", x), out="x"), sequence, **sizes)

    return final
