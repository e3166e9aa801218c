"""Masked tokens in the order of a Halton sequence."""

from __future__ import annotations

from collections.abc import Iterator
from math import isqrt
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from latentc.components.networks.bert import Bert
from latentc.components.parts import Problem, Spec
from latentc.components.samplers._masked import MaskedSampler, Values, free_of, known_counts
from latentc.ir.builder import Builder, Var
from latentc_runtime.sources import RandomSource


class Halton(MaskedSampler):
    """Reveals tokens in an order that spreads them evenly over the grid (Besnier et al. 2025, arXiv:2503.17076)."""

    kind: Literal["halton"]
    steps: int = Field(32, gt=0, le=100_000, description="evaluations of the network")
    sharpness: tuple[float, float] = Field(
        (1.0, 1.0), description="factor of the logits at the first and last step, interpolated linearly"
    )
    warmup: int = Field(0, ge=0, le=100_000, description="initial steps with half the sharpness")
    rotate: bool = Field(True, description="each sample starts at a random position of the sequence")
    redraw: bool = Field(
        True,
        description="redraw revealed tokens in every step; false: draw them once, as the authors' code does since "
        "its models of 2025",
    )
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "halton", "steps": 4, "guidance": {"scale": 3.0}}

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from super().problems(spec)
        if min(self.sharpness) <= 0:
            yield Problem(
                ("sharpness",),
                "`sharpness` multiplies the logits, so it must be positive",
                "use 1.0 to leave them unchanged",
            )
        main = spec.networks.get("main")
        if isinstance(main, Bert) and main.splits > 1:
            yield Problem(
                (), "the Halton sequence orders whole tokens, but the network splits them", "use `confidence`"
            )
        grid = spec.data.tokens.grid if spec.data.tokens is not None else (1, 1)
        if len(grid) != 2 or grid[0] != grid[1]:
            sides = " by ".join(map(str, grid))
            yield Problem((), f"the Halton sequence needs a square grid of tokens, not {sides}", "use `confidence`")

    def guided_progress(self) -> np.ndarray:
        return np.arange(1, self.steps + 1) / self.steps

    def counts(self, length: int) -> np.ndarray:
        return known_counts(self.schedule, self.guided_progress(), length)

    def sharpness_of_steps(self) -> np.ndarray:
        factors = np.linspace(*self.sharpness, self.steps)
        return np.where(np.arange(self.steps) < self.warmup, factors / 2, factors)

    def columns(self, length: int, keeps: bool = False) -> dict[str, np.ndarray]:
        return {} if self.redraw else {"known": np.concatenate([[0], self.counts(length)[:-1]])}

    def draws(self, length: int) -> dict[str, RandomSource]:
        rotation = RandomSource("integers", "rotation", parameters={"high": length})
        return {"rotation": rotation} if self.rotate else {}

    def fixed(self, b: Builder, drawn: Values, length: int) -> dict[str, Var]:
        """The rank of each token: i64[T], or i64[B, T] rotated by sample."""
        ranks = b.constant(np.argsort(halton_order(isqrt(length), isqrt(length))), out="ranks")
        if self.rotate:
            rotated = b.add(ranks, b.reshape(drawn["rotation"], shape=(drawn["rotation"].shape[0], 1)), out="rotated")
            ranks = b.op("sub", rotated, b.mul(b.div(rotated, length), length), out="ranks")
        return {"ranks": ranks}

    def choose(self, b: Builder, mask: int, tokens: Var, drawn: Var, logits: Var, predicted: Var, at: Values) -> Var:
        revealed = b.less(at["ranks"], at["count"], out="revealed")
        if not self.redraw:
            new = b.less_equal(at["known"], at["ranks"], out="new")
            revealed = b.logical_and(new, revealed, out="revealed")
        free = free_of(b, at)
        return revealed if free is None else b.logical_and(revealed, free, out="chosen")


def halton_order(rows: int, columns: int) -> NDArray[np.int64]:
    """i64[T]: the cells of a grid, row by row, in the order in which the 2-D Halton sequence first visits them.

    Bases 2 (rows) and 3 (columns), from the second point on (Besnier et al. 2025, arXiv:2503.17076).
    """
    found: dict[int, None] = {}
    index = 1
    while len(found) < rows * columns:
        row, column = int(_radical_inverse(index, 2) * rows), int(_radical_inverse(index, 3) * columns)
        found.setdefault(row * columns + column)
        index += 1
    return np.array(list(found), np.int64)


def _radical_inverse(index: int, base: int) -> float:
    """The digits of `index` mirrored at the point."""
    numerator, denominator = 0, 1
    while index:
        index, digit = divmod(index, base)
        numerator, denominator = numerator * base + digit, denominator * base
    return numerator / denominator
