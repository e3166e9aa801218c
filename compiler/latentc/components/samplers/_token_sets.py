"""The steps of MAR's sampler: features of all tokens, then a diffusion of each token of a set.

Symbols: B batch, T tokens of a sample, C channels of a token, D channels of its features, K tokens denoised at once,
S noisy steps of the diffusion.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from latentc.components.contract import Network
from latentc.components.guidance.guidance import Guide, of_conditions, scale_at
from latentc.components.kit import Conditions, both_branches, call
from latentc.components.kit.tokens import Schedule, hidden_fraction
from latentc.components.parts import Problem
from latentc.components.samplers.base import ArraySampler, inner_problems
from latentc.components.samplers.guided import Request
from latentc.components.samplers.program import denoise, stochastic_rows
from latentc.components.samplers.table import Table
from latentc.ir.builder import Builder, Var
from latentc.ir.types import B

Row = tuple[Var, ...]


def diffusion_problems(diffusion: ArraySampler) -> Iterator[Problem]:
    """Settings of a sampler of whole arrays that do not apply to tokens; paths relative to it."""
    if diffusion.guidance is not None:
        message = "the sampler sets the guidance of this diffusion, with one scale for all its steps"
        yield Problem(("guidance",), message, "leave it out, and set `sampler.guidance` instead")
    yield from inner_problems(diffusion, "this one denoises tokens")


def hidden_counts(schedule: Schedule, steps: int, length: int) -> list[int]:
    """Hidden tokens of `length` before the first step, and after each: at least one fewer, and none after the last."""
    left = [length]
    for fraction in hidden_fraction(schedule, np.arange(1, steps) / steps):
        left.append(max(1, min(left[-1] - 1, int(np.floor(length * fraction)))))
    return [*left, 0]


@dataclass(frozen=True)
class TokenSets:
    """Bodies of the loops over sets of tokens: invariants are `operands` of conditions, then `fixed` (`ranks` and
    `order` i64[B, T], `x` f32[B, T, C], perhaps `scale` f32[B], `noise` f32[B, S, T, C] and `free` i64[B, 1]).

    State is tokens f32[B, T, C], and perhaps the features f32[B, T, D] that each was drawn with. `method`: that of
    `main`, which may return features of more tokens after those. A row has the tokens hidden before a set, after each
    of its steps, then with guidance its weight in each. `tables` of the diffusion: in the first step, in the others.
    """

    main: Network
    head: Network
    conditions: Conditions
    operands: tuple[str, ...]
    fixed: tuple[str, ...]
    tables: tuple[Table, ...]
    entry: str
    method: str = "forward"

    def body(self, steps: int) -> Callable[..., Any]:
        """The body of a loop over sets of so many steps."""
        return self.step

    def step(self, blocks: tuple[int, ...], b: Builder, i: Var, invariants: Row, state: Row, rows: Row) -> Any:
        """One set: K tokens from place `after` of the order on, of which those before `before` are hidden."""
        (tokens, *features), (before, after, *weight) = state, rows
        operands, at = self.given(invariants)
        (count,) = blocks
        length = int(tokens.shape[1])
        before, after = self.among_free(b, at, length, (before, after), ("before", "after"))
        waiting = b.less(at["ranks"], before, out="waiting")
        hidden = b.cast(waiting, to="f32", out="hidden")
        places = b.minimum(b.add(after, b.arange(count)), length - 1, out="places")
        chosen = _picked(b, at["order"], places, "chosen")
        scale = scale_at(b, at["scale"], weight[0]) if "scale" in at else None
        if scale is None:
            z, null_z = call(b, self.main, self.method, operands, state=tokens, mask=hidden, out="z"), None
        else:
            null = self.conditions.null(b, operands)
            z, null_z = both_branches(b, self.main, self.method, operands, null, state=tokens, mask=hidden, out="z")
        made = self.drawn(b, at, self.tables[0], z, null_z, chosen, places, scale)
        # The rank of a token of the set is its place in it.
        place = b.op("sub", at["ranks"], after, out="place")
        mine = b.logical_and(waiting, b.less_equal(after, at["ranks"]), out="mine")
        index = b.clamp(place, low=0, high=count - 1, out="index")
        column = b.reshape(mine, shape=(B, length, 1))
        put = b.where(column, along(b, made, index), tokens, out="tokens")
        own = [b.where(column, b.slice(z, axis=1, start=0, stop=length), v, out="features") for v in features]
        return (put, *own), ()

    def given(self, invariants: Row) -> tuple[dict[str, Var], dict[str, Var]]:
        operands = dict(zip(self.operands, invariants, strict=False))
        return operands, dict(zip(self.fixed, invariants[len(operands) :], strict=True))

    @staticmethod
    def among_free(b: Builder, at: Mapping[str, Var], length: int, columns: Row, names: Any) -> Row:
        """Numbers of tokens as the same fraction of those that may change, rounded up."""
        if "free" not in at:
            return columns
        return tuple(
            b.div(at["free"] * column + (length - 1), length, out=label)
            for column, label in zip(columns, names, strict=True)
        )

    def drawn(
        self,
        b: Builder,
        at: Mapping[str, Var],
        table: Table,
        z: Var,
        null_z: Var | None,
        chosen: Var,
        places: Var,
        scale: Var | None,
        step: int = 0,
    ) -> Var:
        """Tokens f32[B, K, C] denoised by `table`, given the features at `chosen` of z [B, T, D], or with guidance of z
        and of null_z with `scale` f32[B]. Starts and noise are those of `at` at `places`; `step` numbers the loop."""
        count, size = int(places.shape[-1]), int(at["x"].shape[2])
        width = int(z.shape[2])
        if scale is not None:
            spread = b.broadcast_to(b.reshape(scale, shape=(B, 1)), at["x"], shape=(B, count))
            scale = b.reshape(spread, shape=(B * count,), out="scale")
        features = {
            key: b.reshape(_picked(b, v, chosen, "along"), shape=(B * count, width), out=key)
            for key, v in (("z", z), ("null_z", null_z))
            if v is not None
        }
        start = b.reshape(_picked(b, at["x"], places), shape=(B * count, size), out="start")
        kicks = None
        if noisy := stochastic_rows(table):
            kicks = b.transpose(at["noise"], perm=(0, 2, 1, 3))  # [B, T, S, C]
            kicks = b.transpose(_picked(b, kicks, places), perm=(2, 0, 1, 3))
            if int(kicks.shape[0]) > noisy:
                kicks = b.slice(kicks, axis=0, start=0, stop=noisy)
            kicks = b.reshape(kicks, shape=(kicks.shape[0], B * count, size), out="kicks")
        scales = {} if scale is None else {"scale": scale}
        request = Request(features, lambda b, operands, names: {"z": operands["null_z"]}, ("z",), features["z"], scales)
        guides = [Guide(key, "guidance", 1.0, np.ones_like, of_conditions()) for key in scales]
        name = f"{self.entry}.token" + (f"_{step}" if step else "")
        made = denoise(b, name, table, self.head, request, start, kicks, guides)
        return b.reshape(made, shape=(B, count, size), out="made")  # type: ignore[no-any-return]


def _picked(b: Builder, v: Var, places: Var, out: str = "picked") -> Var:
    """Elements of v [B, T, …] at places [K], the same for all samples, or [B, K]."""
    if places.type.rank == 1:
        return b.take(v, places, axis=1, out=out)  # type: ignore[no-any-return]
    return along(b, v, places, out)


def along(b: Builder, v: Var, index: Var, out: str = "along") -> Var:
    """Elements of v [B, T, …] at index [B, K]."""
    rest = v.shape[2:]
    wide = b.reshape(index, shape=(*index.shape, *[1] * len(rest))) if rest else index
    if rest:
        wide = b.broadcast_to(wide, v, shape=(*index.shape, *rest))
    return b.take_along(v, wide, axis=1, out=out)  # type: ignore[no-any-return]


__all__ = ["TokenSets", "diffusion_problems", "hidden_counts"]
