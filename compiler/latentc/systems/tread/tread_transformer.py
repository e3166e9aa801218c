"""DiT some of whose tokens skip blocks, in training and in guidance.

Symbols: B batch, T tokens, K those that go through the blocks of a route, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components import Closed, Index
from latentc.components.capabilities import Capability, routed_method
from latentc.components.contract import Method, Port
from latentc.components.kit.tokens import rows
from latentc.components.networks.patch_transformer import Passage, PatchTransformer
from latentc.components.parts import Problem, Spec
from latentc.components.sampler import Sampler
from latentc.ir.builder import Builder, Var, f32
from latentc.ir.types import B, Named


class Route(Closed):
    """Blocks that some tokens skip in training."""

    start: Index = Field(description="first block that is skipped, counted from 0")
    end: int = Field(ge=-512, le=511, description="last block that is skipped; -1: the last one")
    ratio: float = Field(
        0.5, gt=0, lt=1, description="fraction of tokens that skip the blocks, drawn anew for each sample"
    )

    def last(self, depth: int) -> int:
        """The last block that is skipped, of this many, counted from 0."""
        return self.end + (depth if self.end < 0 else 0)


class TreadTransformer(PatchTransformer):
    """A patch_transformer some of whose tokens skip blocks in training (TREAD, Krause et al. 2025, arXiv:2501.04765).

    `train_forward` also takes scores f32[B, T] per route: the tokens of the highest skip its blocks.
    """

    kind: Literal["tread_transformer"]  # type: ignore[assignment]
    routes: tuple[Route, ...] = Field(
        min_length=1, max_length=64, description="blocks that some tokens skip in training, from first to last"
    )
    EXAMPLE: ClassVar[dict[str, Any]] = {
        **PatchTransformer.EXAMPLE,
        "kind": "tread_transformer",
        "routes": [{"start": 1, "end": 1}],
    }
    PROVIDES: ClassVar[frozenset[Capability]] = PatchTransformer.PROVIDES | {"skip_tokens"}

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from super().problems(spec)
        for name, positions in self.encodings().items():
            if positions is not None and positions.ROTARY:
                message = f"`{positions.kind}` assigns positions inside blocks, which tokens that skip blocks lose"
                yield Problem((name,), message, "use `{kind: sincos_2d}`")
        if self.block.spatial or self.second.spatial:
            message = (
                f"the tokens left after others skip blocks are not a square, but `{self.block.mixer.kind}` needs one"
            )
            yield Problem(("routes",), message, "use a mixer of sequences, such as `{kind: attention}`")
        free = 0
        for i, route in enumerate(self.routes):
            end = route.last(self.depth)
            if not free <= route.start <= end < self.depth:
                message = f"blocks {route.start} to {end} are not a valid route"
                mend = f"a route starts after the previous one ends, within blocks 0 to {self.depth - 1}"
                yield Problem(("routes", i), message, mend)
                return
            free = end + 1

    def further_methods(
        self, spec: Spec, name: str, add: Callable[..., Method], ports: tuple[Port, ...], static: Mapping[str, Any]
    ) -> dict[str, Method]:
        assert spec.data.shape is not None
        tokens = Named(self.tokens(spec.data.shape), "T")
        ports = (*ports, *(Port(f"scores_{i}", f32(B, tokens), "noise") for i, _ in enumerate(self.routes)))
        names = ("kept",) if len(self.routes) == 1 else tuple(f"kept_{i}" for i, _ in enumerate(self.routes))
        kept = {n: tokens - int(tokens * route.ratio) for n, route in zip(names, self.routes, strict=True)}
        how = {
            "passage": _routed(self.routes, self.depth, names),
            "doc": "The forward pass in training: tokens of high scores skip blocks.",
        }
        methods = {"train_forward": add("train_forward", ports, {**static, **kept}, ("output",), **how)}
        for share in spec.sampler.shares(name) if isinstance(spec.sampler, Sampler) else ():
            # In the authors' code `share` of the tokens, rounded down, skip blocks; the others are kept.
            method = routed_method(share)
            size = method.replace("forward_skips", "kept_at")
            how = {
                "passage": _routed(self.routes, self.depth, (size,) * len(self.routes)),
                "doc": "Predicts as forward does, but tokens of high scores skip the blocks of the routes.",
            }
            sizes = {**static, size: tokens - int(tokens * share)}
            methods[method] = add(method, ports, sizes, ("output",), **how)
        return methods


@cache
def _routed(
    routes: tuple[Route, ...], depth: int, names: tuple[str, ...]
) -> Callable[[tuple[Var, ...], Mapping[str, Any]], Passage]:
    """`names`: per route, the static argument that is the number of tokens going through its blocks."""
    starts = {route.start: i for i, route in enumerate(routes)}
    ends = {route.last(depth) for route in routes}

    class Routed(Passage):
        """Tokens of high scores [B, T] skip the blocks of each route."""

        def __init__(self, operands: tuple[Var, ...], static: Mapping[str, Any]) -> None:
            super().__init__(operands, static)
            self.scores, self.kept = operands, [static[name] for name in names]
            self.skipped: tuple[Var, Var, Any] | None = None  # of the current route: all tokens, their order, K

        def enter(self, b: Builder, block: int, x: Var) -> Var:
            if block not in starts:
                return x
            i = starts[block]
            order, kept = b.argsort(self.scores[i], out="order"), self.kept[i]
            self.skipped = (x, order, kept)
            return rows(b, x, b.slice(order, axis=1, start=0, stop=kept, out="chosen"), "x")

        def leave(self, b: Builder, block: int, x: Var) -> Var:
            if block not in ends or self.skipped is None:
                return x
            before, order, kept = self.skipped
            place = b.argsort(order, out="place")
            returned = rows(b, x, b.minimum(place, kept - 1), "returned")
            went = b.reshape(b.less(place, kept), shape=(*place.shape, 1), out="went")
            return b.where(went, returned, before, out="x")

    return Routed
