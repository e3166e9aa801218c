"""Tokens that skip blocks of a transformer over patches, in training and in guidance; features projected in training.

Symbols: B batch, T tokens, K those that go through the blocks of a route, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import Field

from latentc.components import Closed, Index, Size
from latentc.components.capabilities import routed_method
from latentc.components.kit.tokens import rows
from latentc.components.parts import Problem, dense
from latentc.ir.builder import Builder, Var, module_class


class Route(Closed):
    """Blocks that some tokens skip in training (TREAD, Krause et al. 2025, arXiv:2501.04765)."""

    start: Index = Field(description="first block that is skipped, counted from 0")
    end: int = Field(ge=-512, le=511, description="last block that is skipped; -1: the last one")
    ratio: float = Field(
        0.5, gt=0, lt=1, description="fraction of tokens that skip the blocks, drawn anew for each sample"
    )


class Alignment(Closed):
    """Projections of a block's output, for a loss that aligns them with features of another network (REPA, Yu et al.
    2024, arXiv:2410.06940). They exist in training only."""

    blocks: Index = Field(8, description="number of blocks before it")
    hidden: Size = Field(2048, description="channels of the two hidden layers of a projection")
    features: tuple[Size, ...] = Field((768,), min_length=1, max_length=16, description="channels of each projection")


def skipped(routes: Sequence[Route], depth: int) -> list[tuple[int, int]]:
    """First and last block of each route, counted from 0."""
    return [(route.start, route.end + (depth if route.end < 0 else 0)) for route in routes]


def problems_of_training(routes: Sequence[Route], alignment: Alignment | None, depth: int) -> Iterator[Problem]:
    """Routes and an alignment that do not fit the blocks."""
    free, ends = 0, skipped(routes, depth)
    for i, (start, end) in enumerate(ends):
        if not free <= start <= end < depth:
            message = f"blocks {start} to {end} are not a valid route"
            yield Problem(
                ("routes", i), message, f"a route starts after the previous one ends, within blocks 0 to {depth - 1}"
            )
            return
        free = end + 1
    if alignment is not None and not 0 < alignment.blocks <= depth:
        message = f"the alignment follows block {alignment.blocks}, but there are {depth}"
        yield Problem(("alignment", "blocks"), message, f"choose 1 to {depth}")
        return
    for start, end in ends:
        if alignment is not None and start < alignment.blocks <= end:
            message = f"tokens that skip blocks {start} to {end} have no features to align"
            yield Problem(("alignment", "blocks"), message, f"set it to at least {end + 1}, or at most {start}")


class Routing:
    """The routes of one forward pass: which tokens go through the blocks, and what the others were.

    `scores` [B, T] per route; `kept`: how many tokens go through each.
    """

    def __init__(self, routes: Sequence[Route], depth: int, scores: tuple[Var, ...], kept: Sequence[Any]) -> None:
        ends = skipped(routes, depth)
        self.starts = {start: i for i, (start, _) in enumerate(ends)}
        self.ends = {end for _, end in ends}
        self.scores, self.kept = scores, kept
        self.skipped: tuple[Var, Var, Any] | None = None  # of the current route: all tokens, their order, how many go

    def enter(self, b: Builder, block: int, x: Var) -> Var:
        """The tokens [B, K, D] of x that block number `block` takes: those of the least scores."""
        if block not in self.starts:
            return x
        i = self.starts[block]
        order, kept = b.argsort(self.scores[i], out="order"), self.kept[i]
        self.skipped = (x, order, kept)
        return rows(b, x, b.slice(order, axis=1, start=0, stop=kept, out="chosen"), "x")

    def leave(self, b: Builder, block: int, x: Var) -> Var:
        """All tokens again behind the last block of a route, those that skipped it as they were."""
        if block not in self.ends or self.skipped is None:
            return x
        before, order, kept = self.skipped
        place = b.argsort(order, out="place")
        returned = rows(b, x, b.minimum(place, kept - 1), "returned")
        went = b.reshape(b.less(place, kept), shape=(*place.shape, 1), out="went")
        return b.where(went, returned, before, out="x")  # type: ignore[no-any-return]


def kept_names(routes: Sequence[Route]) -> tuple[str, ...]:
    """Names of the static arguments that say how many tokens go through the blocks of each route."""
    return ("kept",) if len(routes) == 1 else tuple(f"kept_{i}" for i, _ in enumerate(routes))


def kept_at(share: float) -> str:
    """Name of the static argument that says how many tokens go through where this share skips blocks."""
    return routed_method(share).replace("forward_skips", "kept_at")


@module_class("Projector", x="B T dim")
def projector(b: Builder, x: Var, *, dim: int, hidden: int, out_dim: int) -> Var:
    """Three linear layers with SiLU between them."""
    x = b.silu(dense(b, "fc1", x, hidden, True, "xavier"), out="x")
    x = b.silu(dense(b, "fc2", x, hidden, True, "xavier"), out="x")
    return dense(b, "fc3", x, out_dim, True, "xavier", out="features")


__all__ = ["Alignment", "Route", "Routing", "kept_at", "kept_names", "problems_of_training", "projector", "skipped"]
