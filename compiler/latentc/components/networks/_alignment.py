"""Features of a block, projected in training for a loss that aligns them with another network's.

Symbols: B batch, T tokens.
"""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field

from latentc.components import Closed, Index, Size
from latentc.components.parts import Problem, dense
from latentc.ir.builder import Builder, Var, module_class


class Alignment(Closed):
    """Projections of a block's output, for a loss that aligns them with features of another network (REPA, Yu et al.
    2024, arXiv:2410.06940). They exist in training only."""

    blocks: Index = Field(8, description="number of blocks before it")
    hidden: Size = Field(2048, description="channels of the two hidden layers of a projection")
    features: tuple[Size, ...] = Field((768,), min_length=1, max_length=16, description="channels of each projection")

    def problems_of_depth(self, depth: int) -> Iterator[Problem]:
        """A block that a network with this many does not have."""
        if not 0 < self.blocks <= depth:
            message = f"the alignment follows block {self.blocks}, but there are {depth}"
            yield Problem(("alignment", "blocks"), message, f"choose 1 to {depth}")


@module_class("Projector", x="B T dim")
def projector(b: Builder, x: Var, *, dim: int, hidden: int, out_dim: int) -> Var:
    """Three linear layers with SiLU between them."""
    x = b.silu(dense(b, "fc1", x, hidden, True, "xavier"), out="x")
    x = b.silu(dense(b, "fc2", x, hidden, True, "xavier"), out="x")
    return dense(b, "fc3", x, out_dim, True, "xavier", out="features")
