"""The logarithmic kernel of KERPLE."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from latentc.ir.builder import Builder, Var
from latentc.systems.kerple.kernels import LEAST, ScoreKernel, positive


class KerpleLog(ScoreKernel):
    """Adds -p log(1 + a d) to the scores of tokens at distance d, with positive p and a per head.

    Chi et al. 2022, arXiv:2205.09921.
    """

    kind: Literal["kerple_log"]
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "kerple_log"}

    def terms(self, b: Builder, distance: Var, heads: int) -> tuple[Var | None, Var | None]:
        p, a = (positive(b, f"bias_{n}", heads, high) for n, high in (("p", 2.0), ("a", 1.0)))
        p, a = b.maximum(p, LEAST, out="p"), b.maximum(a, LEAST, out="a")
        return None, b.neg(p * b.log(a * distance + 1.0), out="bias")
