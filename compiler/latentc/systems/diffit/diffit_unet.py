"""DiffiT's U-shaped network of pixels."""

from __future__ import annotations

from functools import cache
from typing import Any, ClassVar, Literal

from latentc.components.blocks.feature_map import as_map
from latentc.components.layers import conv
from latentc.components.networks.staged_unet import Path, StagedUnet
from latentc.components.parts import Norm
from latentc.ir.builder import BlockBody, Builder, Var, module_class


class DiffitUnet(StagedUnet):
    """A staged_unet whose last features are normalised and passed through SiLU (DiffiT, Hatamizadeh et al. 2024,
    arXiv:2312.02139)."""

    kind: Literal["diffit_unet"]  # type: ignore[assignment]
    EXAMPLE: ClassVar[dict[str, Any]] = {**StagedUnet.EXAMPLE, "kind": "diffit_unet"}

    def path(self) -> type[Path]:
        return _Path


class _Path(Path):
    def leave(self, x: Var, out_channels: Any) -> Var:
        return self.final(_final_layer(self.norm), out_channels, x)


@cache
def _final_layer(norm: Norm) -> BlockBody:
    @module_class("FinalLayer")
    def final_layer(b: Builder, x: Var, *, dim: int, grid: int, out_channels: int) -> Var:
        """Normalises and activates the tokens, then maps each pixel's neighbourhood to the output."""
        x = b.silu(norm.apply(b, "norm_final", x), out="x")
        return conv(b, "conv", as_map(b, x, grid), out_channels, 3, "zeros")

    return final_layer
