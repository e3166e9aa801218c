"""Layer normalisation with a scale and a shift that depend on the time."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.blocks.norms._timed import timed
from latentc.components.parts import Norm
from latentc.ir.builder import Builder, Var


class TimedLayerNorm(Norm):
    """LayerNorm whose scale and shift at time t are early + sigmoid(rate t + shift) (late - early) (DiMR).

    Liu et al. 2024, arXiv:2406.09416; all are learned vectors.
    """

    kind: Literal["timed_layer_norm"]
    eps: float = Field(1e-5, gt=0, description="added to the variance")
    TIMED: ClassVar[bool] = True
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "timed_layer_norm"}

    def apply(self, b: Builder, name: str, x: Var, t: Var | None = None, grid: Any = None) -> Var:
        assert t is not None
        scale = timed(b, f"{name}_scale", t, x.shape[-1], "ones")
        return b.layer_norm(x, eps=self.eps) * scale + timed(b, f"{name}_shift", t, x.shape[-1], "zeros")  # type: ignore[no-any-return]
