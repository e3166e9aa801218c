"""Grids of ever more steps, as consistency training goes through them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import Field

from latentc.components import Closed
from latentc.components.objectives._common import step_of
from latentc.components.processes.formulas import Array
from latentc.ir.builder import Builder, Var

MOST = 100_000
"""Pairs of times that the grids of a training have together, at most."""


class Growth(Closed):
    """Grids whose numbers of steps rise in training, from `first` to the objective's `steps`."""

    first: int = Field(10, gt=0, le=100_000, description="steps of the first grid")
    rule: Literal["doubling", "square_root"] = Field(
        "doubling",
        description="grids that double in steps, each for an equal part of training (Song and Dhariwal 2023, "
        "arXiv:2310.14189), or that grow by one step such that the square of the step count rises evenly (Song et "
        "al. 2023, arXiv:2303.01469)",
    )
    over: int | None = Field(
        None, gt=0, le=1_000_000_000, description="training steps over which the grid grows; null: `train.steps`"
    )

    def grids(self, last: int, training: int) -> list[tuple[int, int]]:
        """(step of training from which it is used, steps of the grid), in order."""
        total = self.over or training
        if self.rule == "doubling":
            counts = [self.first]
            while counts[-1] < last:
                counts.append(min(2 * counts[-1], last))
            period = max(int(total / (math.log2(last // self.first) + 1)), 1)
            return [(i * period, count) for i, count in enumerate(counts)]
        # ceil(sqrt(k / K ((last + 1)^2 - first^2) + first^2) - 1) in step k of K, and 1 at least
        counts = list(range(max(self.first - 1, 1), last + 1))
        rise = (last + 1) ** 2 - self.first**2
        starts = [total * (count**2 - self.first**2) // rise + 1 for count in counts]
        return [(0, counts[0]), *zip(starts[1:], counts[1:], strict=True)]


@dataclass(frozen=True)
class Grids:
    """Grids, each used from a step of training on, whose pairs of times are numbered one grid after another.

    `cumulative(steps)` f64[N]: the probability of a pair of a grid or one before it.
    """

    starts: tuple[int, ...]
    counts: tuple[int, ...]
    cumulative: Callable[[int], Array]

    def drawn(self, b: Builder, u: Var) -> Var:
        """i64[B]: the number of a pair of the grid that this step of training uses, by u f32[B] in [0, 1)."""
        tables = [self.cumulative(count)[:-1] for count in self.counts]
        if len(tables) == 1:
            return _above(b, u, b.constant(tables[0].reshape(1, -1), out="cumulative"))
        longest, offsets = max(map(len, tables)), np.cumsum([0, *(len(table) + 1 for table in tables[:-1])])
        rows = np.stack([np.pad(table, (0, longest - len(table)), constant_values=2.0) for table in tables])
        begun = b.less_equal(b.constant(np.array(self.starts[1:]), out="starts"), step_of(b))
        stage = b.sum(b.cast(begun, to="i64", out="begun"), axes=(0,), keepdims=False, out="stage")
        row = b.take(b.constant(rows, out="cumulative"), stage, axis=0, out="row")
        pair = _above(b, u, b.reshape(row, shape=(1, longest)))
        return b.add(pair, b.take(b.constant(offsets, out="offsets"), stage, axis=0), out="pair")


def _above(b: Builder, u: Var, table: Var) -> Var:
    """i64[B]: how many numbers of the table [1, N] are less than u f32[B]."""
    above = b.cast(b.greater(b.reshape(u, shape=(u.shape[0], 1)), table), to="i64", out="above")
    return b.sum(above, axes=(1,), keepdims=False, out="pair")
