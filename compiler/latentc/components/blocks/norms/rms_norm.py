"""Root-mean-square normalisation."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.parts import TokenNorm
from latentc.ir.builder import Builder, Var
from latentc.ir.types import TensorType


class RmsNorm(TokenNorm):
    """x / sqrt(mean(x^2) + eps) over the last axis (Zhang and Sennrich 2019, arXiv:1910.07467)."""

    kind: Literal["rms_norm"]
    eps: float = Field(1e-5, gt=0, description="added to the mean square")
    affine: bool = Field(True, description="learned scale")
    CENTRED: ClassVar[bool] = False
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "rms_norm"}

    def apply(self, b: Builder, name: str, x: Var) -> Var:
        if not self.affine:
            return b.rms_norm(x, eps=self.eps)
        scale = b.param(f"{name}.weight", TensorType(x.type.dtype, (x.shape[-1],)), "ones")
        return b.rms_norm(x, scale, eps=self.eps)
