"""The power kernels of KERPLE."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.parts import Problem, Spec
from latentc.ir.builder import Builder, Var
from latentc.systems.kerple.kernels import LEAST, ScoreKernel, positive

Learned = Literal["scale", "power", "scale_and_power"]


class KerplePower(ScoreKernel):
    """Adds -a d^p to the scores of tokens at distance d, or multiplies them by exp(-a d^p), or both.

    Per head, a is positive and p between 0 and 2; parameters that are not learned are 1. Chi et al. 2022,
    arXiv:2205.09921.
    """

    kind: Literal["kerple_power"]
    bias: Learned | None = Field(
        "scale_and_power", description="learned parameters of the additive term; null: no additive term"
    )
    factor: Learned | None = Field(None, description="learned parameters of the factor; null: no factor")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "kerple_power"}

    def problems(self, spec: Spec) -> Iterator[Problem]:
        if self.bias is None and self.factor is None:
            yield Problem(("bias",), "the kernel neither adds to the scores nor multiplies them", "set one of them")

    @property
    def multiplies(self) -> bool:
        return self.factor is not None

    def terms(self, b: Builder, distance: Var, heads: int) -> tuple[Var | None, Var | None]:
        factor = None if self.factor is None else b.exp(_decay(b, "wei", self.factor, distance, heads), out="factor")
        return factor, None if self.bias is None else _decay(b, "bias", self.bias, distance, heads)


def _decay(b: Builder, name: str, learned: Learned, distance: Var, heads: int) -> Var:
    """-a d^p, f32[1, H, T_q, T]."""
    if learned != "scale":
        p = b.clamp(positive(b, f"{name}_p", heads, 2.0), low=LEAST, high=2.0, out="p")
        # 0^p is 0 for every p here; log(0) would spoil the derivative with respect to p.
        distance = b.where(b.equal(distance, 0.0), 0.0, b.pow(b.maximum(distance, 1.0), p), out="distance")
    if learned != "power":
        distance = b.maximum(positive(b, f"{name}_a", heads, 1.0), LEAST) * distance
    return b.neg(distance, out="bias")
