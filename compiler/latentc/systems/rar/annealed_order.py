"""Next-token prediction in random orders that give way to raster order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from latentc.components.contract import Draw
from latentc.components.objectives._common import step_of
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import Builder, Var, f32, i64
from latentc.ir.types import B, Named
from latentc.systems.rar.ordered_tokens import OrderedTokens

Step = Annotated[int, Field(ge=0, le=100_000_000)]


class AnnealedOrder(OrderedTokens):
    """Cross-entropy of each token given those before it in an order drawn per sample, in nats per token (RAR, Yu et al.
    2024, arXiv:2411.00776).

    The order is random with a probability that falls from 1 to 0 during training, and raster order otherwise.
    """

    kind: Literal["annealed_order"]
    annealing: tuple[Step, Step] = Field(
        description="steps of training between which the probability of a random order falls linearly from 1 to 0"
    )
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "annealed_order", "annealing": [2, 4]}

    def problems(self, spec: Spec) -> Iterator[Problem]:
        start, stop = self.annealing
        if start >= stop:
            message = f"the probability falls from step {start} to step {stop}, which is no later"
            yield Problem(("annealing",), message, "give [first step, last step] of the fall")

    def orders(self, b: Builder, count: int) -> tuple[Var, tuple[Draw, ...]]:
        length = Named(count, "T")
        permutation, u = b.input("permutation", i64(B, length)), b.input("u", f32(B))
        start, stop = self.annealing
        passed = b.op("sub", b.cast(step_of(b), to="f32"), float(start))
        random = b.op("sub", 1.0, passed * (1 / (stop - start)), out="random")  # its probability, beyond [0, 1] too
        raster = b.reshape(b.arange(count), shape=(1, length), out="raster")
        drawn = b.reshape(b.less(u, random), shape=(B, 1), out="drawn")
        order = b.where(drawn, permutation, raster, out="order")
        return order, (Draw("permutation", "permutation"), Draw("u", "uniform"))
