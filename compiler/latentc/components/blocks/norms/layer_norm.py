"""Layer normalisation."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.parts import TokenNorm
from latentc.ir.builder import Builder, Var
from latentc.ir.types import TensorType


class LayerNorm(TokenNorm):
    """(x - mean) / sqrt(var + eps) over the last axis (Ba et al. 2016, arXiv:1607.06450)."""

    kind: Literal["layer_norm"]
    eps: float = Field(1e-6, gt=0, description="added to the variance")
    affine: bool = Field(False, description="learned scale and shift")
    bias: bool = Field(True, description="learned shift, if `affine`")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "layer_norm"}

    def apply(self, b: Builder, name: str, x: Var) -> Var:
        if not self.affine:
            return b.layer_norm(x, eps=self.eps)
        width = TensorType(x.type.dtype, (x.shape[-1],))
        scale = b.param(f"{name}.weight", width, "ones")
        if not self.bias:
            return b.mul(b.layer_norm(x, eps=self.eps), scale, out=x.value.name)
        shift = b.param(f"{name}.bias", width, "zeros")
        return b.layer_norm(x, scale, shift, eps=self.eps)
