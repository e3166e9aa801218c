"""Root-mean-square normalisation with a scale that the first tokens give.

Symbols: B batch, T tokens, D width, G side of a square of tokens.
"""

from __future__ import annotations

from functools import cache
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.ir.builder import BlockBody, Builder, Var, module_class
from latentc.systems.dimr.timed_norms import SituatedNorm


class FirstTokenRmsNorm(SituatedNorm):
    """RMSNorm whose scale is 1 + a linear map, initially 0, of the first token (ADARMSN, Liu et al. 2024,
    arXiv:2406.09416).

    The authors' code uses it for classes, which come first. On a map, each column uses its token in the first row.
    """

    kind: Literal["first_token_rms_norm"]
    eps: float = Field(1e-6, gt=0, description="added to the mean square")
    rows: bool = Field(False, description="tokens form a square, whose first row sets the scales of each column")
    CENTRED: ClassVar[bool] = False
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "first_token_rms_norm"}

    @property
    def spatial(self) -> bool:
        return self.rows

    def apply(self, b: Builder, name: str, x: Var) -> Var:
        return super().apply(b, name, x) if self.rows else self._applied(b, name, x)

    def at(self, b: Builder, name: str, x: Var, t: Var, grid: Any) -> Var:
        return self._applied(b, name, x, **({"grid": grid} if self.rows else {}))

    def _applied(self, b: Builder, name: str, x: Var, **grid: Any) -> Var:
        return b.sub(name, _forward(self), x, dim=x.shape[-1], **grid)


@cache
def _forward(config: FirstTokenRmsNorm) -> BlockBody:
    @module_class("FirstRowRmsNorm" if config.rows else "FirstTokenRmsNorm")
    def forward(b: Builder, x: Var, *, dim: int, grid: int = 1) -> Var:
        """RMSNorm with a scale from the first token, or on a square from the first row."""
        first = b.slice(x, axis=1, start=0, stop=grid, out="first")
        scale = b.op("add", b.dense("linear", first, dim, bias=False, init="zeros"), 1.0, out="scale")
        x = b.rms_norm(x, eps=config.eps, out="x")
        if not config.rows:
            return x * scale
        squares = b.reshape(x, shape=(x.shape[0], grid, grid, dim))
        return b.reshape(squares * b.reshape(scale, shape=(x.shape[0], 1, grid, dim)), shape=x.shape, out="x")

    return forward
