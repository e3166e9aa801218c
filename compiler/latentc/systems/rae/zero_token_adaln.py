"""A condition for each token as scale, shift and gate, by maps that start at zero."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from latentc.ir.builder import Builder, Var
from latentc.systems.ddt.token_adaln import TokenAdaln


class ZeroTokenAdaln(TokenAdaln):
    """`token_adaln` whose linear maps start at zero and take SiLU of the condition (RAE, Zheng et al. 2025,
    arXiv:2510.11690).
    """

    kind: Literal["zero_token_adaln"]  # type: ignore[assignment]
    WEIGHTS: ClassVar[str] = "zeros"
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "zero_token_adaln"}

    def activated(self, b: Builder, s: Var) -> Var:
        return b.silu(s)
