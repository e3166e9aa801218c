"""Token after token, each from a window of those around it: samples larger than the network sees.

Not `autoregressive`: tokens before a window change from step to step, so there is no cache. Symbols: B batch, T tokens
of a sample, W tokens of a window, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from latentc.components.contract import Network, Program
from latentc.components.kit import Conditions, call
from latentc.components.kit.windows import cells, cut
from latentc.components.networks.token_transformer import TokenTransformer
from latentc.components.parts import Problem, Spec
from latentc.components.sampler import TokenSampler
from latentc.ir.builder import Builder, ModuleBuilder, Var
from latentc.ir.types import B, f32
from latentc_runtime.sources import RandomSource, Source


class Sliding(TokenSampler):
    """Draws each token, row by row, from a window centred on it (Esser et al. 2021, arXiv:2012.09841)."""

    kind: Literal["sliding"]
    temperature: float = Field(1.0, gt=0, description="temperature of the logits")
    guidance: None = Field(None, description="always null: there is no guidance")
    NEEDS = "next_token"
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "sliding", "top_k": 8}

    def problems(self, spec: Spec) -> Iterator[Problem]:
        if spec.data.tokens is not None and len(spec.data.tokens.grid) != 2:
            yield Problem(
                (), "a sliding window needs a grid of tokens, but these are a sequence", "use `autoregressive`"
            )

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> Program:
        """Adds entry `sample.T`: the conditions, u f32[T, B] -> i64[B, T]."""
        network, conditions = networks["main"], Conditions(spec, networks)
        forward = network.methods["forward"]
        assert spec.data.tokens is not None
        grid, length = spec.data.tokens.grid, spec.data.tokens.length
        main = spec.networks["main"]
        window = (main.window if isinstance(main, TokenTransformer) else None) or grid
        shown, places = sliding(grid, window)
        seen, entry = shown.shape[1], f"sample.{length}"
        b = mb.function(entry)
        cond = conditions.operands(b, conditions.inputs(b))
        u = b.input("u", f32(length, B))
        start = b.full(next(iter(cond.values())), shape=(length,), value=0, dtype="i64", out="tokens")
        tables = [b.constant(shown, out="shown"), b.constant(places, out="place"), u]

        def body(b: Builder, i: Var, fixed: tuple[Var, ...], state: tuple[Var, ...], row: tuple[Var, ...]) -> Any:
            (tokens,), (here, place, u) = state, row
            given = dict(zip(cond, fixed, strict=True))
            given = {k: cut(forward, k, x, lambda x: b.take(x, here, axis=1, out="cond")) for k, x in given.items()}
            before = b.slice(b.take(tokens, here, axis=1, out="near"), axis=1, start=0, stop=seen - 1, out="before")
            logits = call(b, network, "forward", given, state=before, out="logits")
            logits = b.take(logits, place, axis=1, out="logits")
            drawn = self.pick(b, logits, u)
            now = b.equal(b.arange(length), i, out="now")
            return (b.where(now, b.reshape(drawn, shape=(B, 1)), tokens, out="tokens"),), ()

        names = ["tokens", "shown", "place", "u"]
        (tokens,) = b.loop(
            f"{entry}.step", length, body, invariants=list(cond.values()), carried=[start], tables=tables, names=names
        )
        b.output(tokens)
        mb.entries[entry] = b.finish(doc=f"Draws {length} tokens one after the other, each from a window of {seen}.")
        sources: dict[str, Source] = conditions.sources() | {"u": RandomSource("uniform", "token", length)}
        return Program(entry, self.kind, length, length, sources)


def sliding(grid: Sequence[int], window: Sequence[int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(i64[T, W], i64[T]): the window that is shown for each token in turn, and the token's place in it.

    The token is in the middle of its window, or as near to it as the grid allows (Esser et al. 2021).
    """

    def first(i: int, size: int, side: int) -> int:
        half = side // 2
        if i <= half:
            return 0
        return size - side if size - i < half else i - half

    shown, places = [], []
    for i in range(grid[0]):
        for j in range(grid[1]):
            row, column = first(i, grid[0], window[0]), first(j, grid[1], window[1])
            row, column = min(row, grid[0] - window[0]), min(column, grid[1] - window[1])
            shown.append(cells(grid, window, row, column))
            places.append((i - row) * window[1] + j - column)
    return np.stack(shown), np.array(places, np.int64)
