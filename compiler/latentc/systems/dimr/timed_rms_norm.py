"""Root-mean-square normalisation with a scale that depends on the time."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.blocks.norms._timed import timed
from latentc.components.parts import Norm
from latentc.ir.builder import Builder, Var


class TimedRmsNorm(Norm):
    """RMSNorm whose scale at time t is early + sigmoid(rate t + shift) (late - early) (DiMR, Liu et al. 2024).

    All four are learned vectors (arXiv:2406.09416). The eps of the authors' code is added outside the root.
    """

    kind: Literal["timed_rms_norm"]
    eps: float = Field(1e-12, gt=0, description="added to the mean square")
    TIMED: ClassVar[bool] = True
    CENTRED: ClassVar[bool] = False
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "timed_rms_norm"}

    def apply(self, b: Builder, name: str, x: Var, t: Var | None = None, grid: Any = None) -> Var:
        assert t is not None
        return b.rms_norm(x, eps=self.eps) * timed(b, name, t, x.shape[-1], "ones")  # type: ignore[no-any-return]
