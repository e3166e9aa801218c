"""The steps of MAR's sampler: features of all tokens, then a diffusion of each token of a set.

Symbols: B batch, T tokens of a sample, C channels of a token, D channels of its features, K tokens denoised at once,
S noisy steps of the diffusion, G tokens of a set whose steps reuse what its first step computed of the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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
    """What the diffusion of tokens cannot have of a sampler of whole arrays; paths relative to it."""
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
    """Bodies of the loops over sets of tokens: invariants are `told`, operands of conditions, then `fixed` (`ranks` and
    `order` i64[B, T], `x` f32[B, T, C], perhaps `scale` f32[B], `noise` f32[B, S, T, C] and `free` i64[B, 1]).

    State is tokens f32[B, T, C], and perhaps the features f32[B, T, D] that each was drawn with. `method`: that of
    `main`, which may return features of more tokens behind those. A row has the tokens hidden before a set, after each
    of its steps, then with guidance its weight in each. `local`: the table of the diffusion in steps that reuse.
    """

    main: Network
    head: Network
    conditions: Conditions
    told: tuple[str, ...]
    fixed: tuple[str, ...]
    table: Table
    local: Table
    entry: str
    method: str = "forward"

    def step(self, blocks: tuple[int, ...], b: Builder, i: Var, invariants: Row, state: Row, rows: Row) -> Any:
        """One set: K tokens from place `after` of the order on, of which those before `before` are hidden."""
        (tokens, *features), (before, after, *weight) = state, rows
        told, at = self._given(invariants)
        (count,) = blocks
        length = int(tokens.shape[1])
        before, after = self._among_free(b, at, length, (before, after), ("before", "after"))
        waiting = b.less(at["ranks"], before, out="waiting")
        hidden = b.cast(waiting, to="f32", out="hidden")
        places = b.minimum(b.add(after, b.arange(count)), length - 1, out="places")
        chosen = _picked(b, at["order"], places, "chosen")
        scale = scale_at(b, at["scale"], weight[0]) if "scale" in at else None
        if scale is None:
            z, null_z = call(b, self.main, self.method, told, state=tokens, mask=hidden, out="z"), None
        else:
            null = self.conditions.null(b, told)
            z, null_z = both_branches(b, self.main, self.method, told, null, state=tokens, mask=hidden, out="z")
        made = self.drawn(b, at, self.table, z, null_z, chosen, places, scale)
        # The rank of a token of the set is its place in it.
        place = b.op("sub", at["ranks"], after, out="place")
        mine = b.logical_and(waiting, b.less_equal(after, at["ranks"]), out="mine")
        index = b.clamp(place, low=0, high=count - 1, out="index")
        column = b.reshape(mine, shape=(B, length, 1))
        put = b.where(column, _along(b, made, index), tokens, out="tokens")
        own = [b.where(column, b.slice(z, axis=1, start=0, stop=length), v, out="features") for v in features]
        return (put, *own), ()

    def steps(self, blocks: tuple[int, ...], b: Builder, i: Var, invariants: Row, state: Row, rows: Row) -> Any:
        """One set in several steps, its tokens in order of position; all but the first evaluate the set alone."""
        (tokens,), (before, *rest) = state, rows
        told, at = self._given(invariants)
        length = int(tokens.shape[1])
        weights, after = rest[len(blocks) :], rest[: len(blocks)]
        names = ["before", *["after"] * len(after)]
        before, *after = self._among_free(b, at, length, (before, *after), names)
        recall = self.main.methods["recall"]
        most = int(recall.input("state").type.shape[1])  # type: ignore[arg-type]
        waiting = b.less(at["ranks"], before, out="waiting")
        mine = b.logical_and(waiting, b.less_equal(after[-1], at["ranks"]), out="mine")
        # Tokens of the set first, each kind in order of position; others pad it to the recalled size.
        outside = b.op("sub", 1, b.cast(mine, to="i64"), out="outside")
        order = b.argsort(b.add(b.arange(length), b.op("mul", outside, length), out="key"), out="by_set")
        position = b.slice(order, axis=1, start=0, stop=most, out="position")
        place = b.argsort(order, out="place")
        nth = b.add(b.op("mul", position, 0), b.arange(most), out="nth")
        made_before = [b.op("sub", before, column, out="made_before") for column in after]
        hidden = b.cast(waiting, to="f32", out="hidden")
        both = (lambda x: b.concat(x, x, axis=0)) if "scale" in at else (lambda x: x)
        operands = dict(told)
        if "scale" in at:
            null = self.conditions.null(b, told)
            operands = {key: b.concat(value, null[key], axis=0, out=key) for key, value in told.items()}
        caches = len(recall.inputs_of("cache"))
        out = " ".join(["z", *["cache"] * caches])
        z, *remembered = call(b, self.main, "remember", operands, state=both(tokens), mask=both(hidden), out=out)
        z = _along(b, z, both(position), "z")
        known = b.op("sub", 1.0, hidden, out="known")
        others = b.cast(outside, to="f32", out="others")
        counted = b.cast(b.less(nth, made_before[-1]), to="f32", out="counted")
        x = b.mul(_along(b, tokens, position), 0.0, out="x")
        first: Any = 0
        for k, count in enumerate(blocks):
            if k:
                unknown = b.cast(b.less_equal(first, nth), to="f32", out="unknown")
                masks = [both(unknown), both(counted), both(known), both(others)]
                given = {"state": both(x), "mask": masks, "position": both(position), "cache": remembered}
                z = call(b, self.main, "recall", operands, out="z", **given)
            chosen = b.minimum(b.add(first, b.arange(count)), most - 1, out="chosen")
            places = b.minimum(b.add(after[-1], chosen), length - 1, out="places")
            scale = scale_at(b, at["scale"], weights[k]) if "scale" in at else None
            cond, null_z = (z, None) if scale is None else b.split(z, axis=0, sizes=(B, B), out="z null_z")
            made = self.drawn(b, at, self.local if k else self.table, cond, null_z, chosen, places, scale, k)
            drawn = b.logical_and(b.less_equal(first, nth), b.less(nth, made_before[k]), out="drawn")
            index = b.clamp(b.op("sub", nth, first), low=0, high=count - 1, out="index")
            x = b.where(b.reshape(drawn, shape=(B, most, 1)), _along(b, made, index), x, out="x")
            first = made_before[k]
        back = b.minimum(place, most - 1, out="back")
        put = b.where(b.reshape(mine, shape=(B, length, 1)), _along(b, x, back), tokens, out="tokens")
        return (put,), ()

    def _given(self, invariants: Row) -> tuple[dict[str, Var], dict[str, Var]]:
        told = dict(zip(self.told, invariants, strict=False))
        return told, dict(zip(self.fixed, invariants[len(told) :], strict=True))

    @staticmethod
    def _among_free(b: Builder, at: Mapping[str, Var], length: int, columns: Row, names: Any) -> Row:
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
        request = Request(features, lambda b, told, names: {"z": told["null_z"]}, ("z",), features["z"], scales)
        guides = [Guide(key, "guidance", 1.0, np.ones_like, of_conditions()) for key in scales]
        name = f"{self.entry}.token" + (f"_{step}" if step else "")
        made = denoise(b, name, table, self.head, request, start, kicks, guides)
        return b.reshape(made, shape=(B, count, size), out="made")  # type: ignore[no-any-return]


def _picked(b: Builder, v: Var, places: Var, out: str = "picked") -> Var:
    """Elements of v [B, T, …] at places [K], the same for all samples, or [B, K]."""
    if places.type.rank == 1:
        return b.take(v, places, axis=1, out=out)  # type: ignore[no-any-return]
    return _along(b, v, places, out)


def _along(b: Builder, v: Var, index: Var, out: str = "along") -> Var:
    """Elements of v [B, T, …] at index [B, K]."""
    rest = v.shape[2:]
    wide = b.reshape(index, shape=(*index.shape, *[1] * len(rest))) if rest else index
    if rest:
        wide = b.broadcast_to(wide, v, shape=(*index.shape, *rest))
    return b.take_along(v, wide, axis=1, out=out)  # type: ignore[no-any-return]


__all__ = ["TokenSets", "diffusion_problems", "hidden_counts"]
