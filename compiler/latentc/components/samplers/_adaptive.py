"""Dormand and Prince's method of order 5 in steps that an error estimate chooses, as ops of a program.

A step is tried, and accepted if the difference to the method of order 4 is within the tolerances; the next is longer or
shorter accordingly (Hairer, Nørsett and Wanner, Solving Ordinary Differential Equations I, section II.4). The slope at
the end of a step is the first of the next, so that a try takes six evaluations, which are one inner loop: an engine
holds one copy of the network for them.

Symbols: B batch, S = 7 slopes of a step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from pydantic import Field

from latentc.components import Closed
from latentc.components.sums import weighted_sum
from latentc.ir.builder import Builder, Var, as_tuple

STAGES = 6
TABLEAU: tuple[tuple[float, ...], ...] = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
"""Dormand and Prince's method: the share of each earlier slope in the next stage, and last in the end of the step."""
WEIGHTS = np.array([[*row, *[0.0] * (STAGES + 1 - len(row))] for row in TABLEAU])
"""f64[6, S]: how much of each slope leads to where the next is evaluated, and at last to the end of the step."""
PLACES = WEIGHTS.sum(axis=1)
ERRORS = {
    "scipy": (-71 / 57600, 0.0, 71 / 16695, -71 / 1920, 17253 / 339200, -22 / 525, 1 / 40),
    # Shampine's method of order 4: two thirds of the error.
    "torchdiffeq": (
        *(35 / 384 - 1951 / 21600, 0.0, 500 / 1113 - 22642 / 50085, 125 / 192 - 451 / 720),
        *(-2187 / 6784 + 12231 / 42400, 11 / 84 - 649 / 6300, -1 / 60),
    ),
}
"""Weights of the slopes in the error estimate of a step."""
MIDDLE = (
    *(6025192743 / 60171106304, 0.0, 51252292925 / 130801643196, -2691868925 / 90256659456),
    *(187940372067 / 3189068634112, -1776094331 / 39487288512, 11237099 / 470086768),
)
"""Weights of the slopes in the state in the middle of a step."""
SAFETY, SHRINK, GROW = 0.9, 0.2, 10.0


class Tolerances(Closed):
    """How the steps of Dormand and Prince's method are chosen."""

    rtol: float = Field(1e-3, gt=0, lt=1, description="relative error tolerance per step")
    atol: float = Field(1e-6, gt=0, lt=1e6, description="absolute error tolerance per step, in units of the state")
    first_step: float | None = Field(
        None,
        gt=0,
        description="length of the first tried step, in the process's time; null: Hairer's rule, 2 evaluations",
    )
    max_steps: int = Field(
        100, gt=0, le=100_000, description="maximum number of tried steps; samples not finished by then are NaN"
    )
    norm: Literal["sample", "batch"] = Field(
        "sample",
        description="error norm: root mean square per sample, giving each its own steps, or over the whole flattened "
        "batch, as the authors",
    )
    rules: Literal["scipy", "torchdiffeq"] = Field(
        "scipy",
        description="reference implementation: scipy's RK45 shortens the last step, torchdiffeq's dopri5 steps past "
        "the end and interpolates; their error estimates and step limits also differ",
    )

    @property
    def evaluations(self) -> int:
        """The most evaluations of a solution."""
        return 1 + (self.first_step is None) + STAGES * self.max_steps


def integrate(
    b: Builder,
    name: str,
    rates: str,
    state: Sequence[Var],
    kept: Sequence[Var],
    ends: tuple[float, float],
    how: Tolerances,
) -> tuple[tuple[Var, ...], Var]:
    """The solution of a differential equation from a `state` at time ends[0]: the state at ends[1], NaN for samples
    that are not there after `how.max_steps`, and the number of evaluations f32[B].

    `rates` names a function (t f32[B], *state, *kept) -> derivatives by t, of the types of the state [B, ...]. All of
    a sample's numbers are one vector to the norm.
    """
    return _Solver(name, rates, ends, how, len(state)).solution(b, tuple(state), tuple(kept))


class _Solver:
    def __init__(self, name: str, rates: str, ends: tuple[float, float], how: Tolerances, parts: int) -> None:
        self.name, self.rates, self.how, self.parts = name, rates, how, parts
        (self.first, self.last), self.clips = ends, how.rules == "scipy"
        self.way = 1.0 if self.last > self.first else -1.0

    def solution(self, b: Builder, state: tuple[Var, ...], kept: tuple[Var, ...]) -> tuple[tuple[Var, ...], Var]:
        t = b.full(state[0], shape=(), value=self.first, dtype="f32", out="t")
        slopes = self._slopes(b, t, state, kept)
        h = self._first_step(b, t, state, slopes, kept)
        made = 1.0 if self.how.first_step is not None else 2.0
        evaluations = b.full(state[0], shape=(), value=made, dtype="f32", out="evaluations")
        carried = [*state, *slopes, t, h, evaluations, b.constant(False, out="finished")]
        carried += [b.greater(h, 0.0, out="fitted")] if self.clips else []
        count = 2 * self.parts

        def attempt(
            inner: Builder, i: Var, kept: tuple[Var, ...], carried: tuple[Var, ...], rows: tuple[Var, ...]
        ) -> tuple[list[Var], tuple[()]]:
            state, slopes, rest = carried[: self.parts], carried[self.parts : count], carried[count:]
            return self._attempt(inner, state, slopes, rest, kept), ()

        names = [*(v.value.name for v in state), *["slope"] * self.parts, "t", "h", "evaluations", "finished", "fitted"]
        outs = b.loop(
            f"{self.name}.dopri5",
            self.how.max_steps,
            attempt,
            invariants=kept,
            carried=carried,
            names=names[: len(carried)],
            until=count + 3,
        )
        missing = b.greater(self._remaining(b, outs[count]), 0.0, out="missing")
        never = b.constant(math.nan, out="nan")
        ended = tuple(
            b.where(self._column(b, missing, x), never, x, out=old.value.name)
            for x, old in zip(outs[: self.parts], state, strict=True)
        )
        return ended, outs[count + 2]

    def _slopes(self, b: Builder, t: Var, state: Sequence[Var], kept: Sequence[Var]) -> tuple[Var, ...]:
        return as_tuple(b.call(self.rates, "", t, *state, *kept, out="slope"))

    def _remaining(self, b: Builder, t: Var) -> Var:
        """f32[B]: time to the end; 0 once it is reached."""
        sides = (self.last, t) if self.way > 0 else (t, self.last)
        return b.op("sub", *sides, out="left")

    def _directed(self, b: Builder, size: Var) -> Var:
        """A length of time as a difference of times."""
        return b.op("neg", size, out="step") if self.way < 0 else size

    def _norm(self, b: Builder, errors: Sequence[Var], out: str) -> Var:
        """f32[B]: the root of the mean square of each sample's numbers, or of the batch's."""
        counts = [math.prod(int(n) for n in e.shape[1:]) for e in errors]
        means = [self._mean(b, b.mul(e, e, out="square")) for e in errors]
        mean = weighted_sum(b, "mean", *((n / sum(counts), m) for n, m in zip(counts, means, strict=True)))
        if self.how.norm == "batch":
            mean = b.broadcast_to(b.mean(mean, axes=(0,), keepdims=True), mean, shape=mean.shape)
        return b.sqrt(mean, out=out)

    @staticmethod
    def _mean(b: Builder, x: Var) -> Var:
        """f32[B]: the mean of each sample's numbers."""
        axes = tuple(range(1, x.type.rank))
        return b.mean(x, axes=axes, keepdims=False, out="mean") if axes else x

    @staticmethod
    def _column(b: Builder, v: Var, like: Var) -> Var:
        """[B] as [B, 1, …], to go with a part of the state."""
        rank = like.type.rank
        return v if rank == 1 else b.reshape(v, shape=(v.shape[0], *[1] * (rank - 1)))

    def _over_bounds(self, b: Builder, values: Sequence[Var], sizes: Sequence[Var], out: str) -> Var:
        """f32[B]: the norm of values relative to the tolerances at these sizes of the state."""
        bounds = [b.add(size * self.how.rtol, self.how.atol, out="bound") for size in sizes]
        return self._norm(b, [b.div(v, bound, out="relative") for v, bound in zip(values, bounds, strict=True)], out)

    def _first_step(
        self, b: Builder, t: Var, state: tuple[Var, ...], slopes: tuple[Var, ...], kept: tuple[Var, ...]
    ) -> Var:
        """f32[B]: the length of the first try: Hairer, Nørsett and Wanner's, from slopes at two points."""
        length = abs(self.last - self.first)
        if self.how.first_step is not None:
            return b.full(t, shape=(), value=min(self.how.first_step, length), dtype="f32", out="h")
        sizes = [b.abs(x) for x in state]
        d0 = self._over_bounds(b, state, sizes, "d0")
        d1 = self._over_bounds(b, slopes, sizes, "d1")
        tiny = b.logical_or(b.less(d0, 1e-5), b.less(d1, 1e-5))
        probe = b.where(tiny, b.scalar(1e-6, d0), d0 / d1 * 0.01, out="probe")
        probe = b.minimum(probe, length, out="probe") if self.clips else probe
        step = self._directed(b, probe)
        there = [
            b.add(x, self._column(b, step, x) * slope, out=x.value.name) for x, slope in zip(state, slopes, strict=True)
        ]
        further = self._slopes(b, t + step, there, kept)
        change = [b.op("sub", after, slope, out="change") for after, slope in zip(further, slopes, strict=True)]
        d2 = b.div(self._over_bounds(b, change, sizes, "d2"), probe, out="d2")
        most = b.maximum(d1, d2, out="most")
        flat = b.less_equal(most, 1e-15)
        h = b.where(flat, b.maximum(probe * 1e-3, 1e-6), b.pow(b.op("div", 0.01, most), 0.2), out="h")
        h = b.minimum(h, probe * 100.0, out="h")
        return b.minimum(h, length, out="h") if self.clips else h

    def _attempt(
        self,
        b: Builder,
        state: tuple[Var, ...],
        slopes: tuple[Var, ...],
        rest: tuple[Var, ...],
        kept: tuple[Var, ...],
    ) -> list[Var]:
        """The carried values after one try of a step; unchanged for samples at their end."""
        t, h, evaluations, _, *fitted = rest
        remaining = self._remaining(b, t)
        active = b.greater(remaining, 0.0, out="active")
        size = b.minimum(h, remaining, out="size") if self.clips else b.where(active, h, 0.0, out="size")
        ends = b.less_equal(remaining, size, out="ends")
        step = self._directed(b, size)
        after, every = self._stages(b, t, step, state, slopes, kept)
        errors = [self._combined(b, all_, ERRORS[self.how.rules], step, "error") for all_ in every]
        sizes = [b.maximum(b.abs(x), b.abs(y)) for x, y in zip(state, after, strict=True)]
        ratio = self._over_bounds(b, errors, sizes, "ratio")
        fits = b.less(ratio, 1.0, out="fits") if self.clips else b.less_equal(ratio, 1.0, out="fits")
        accepted = b.logical_and(fits, active, out="accepted")
        factor = b.mul(b.pow(b.maximum(ratio, 1e-10), -0.2), SAFETY, out="factor")
        # Below the limit, or the error is nan.
        factor = b.where(b.less(ratio, (SAFETY / SHRINK) ** 5), factor, SHRINK, out="factor")
        if self.clips:  # no longer step right after a rejected one
            most = b.where(fitted[0], b.scalar(GROW, factor), 1.0)
            factor = b.minimum(factor, most, out="factor")
        else:  # and no shorter step after an accepted one
            least = b.where(fits, b.scalar(1.0, factor), SHRINK)
            factor = b.minimum(b.maximum(factor, least), GROW, out="factor")
            share = b.div(remaining, size, out="share")
            after = [
                b.where(self._column(b, ends, x), self._between(b, share, step, x, y, all_), y, out=x.value.name)
                for x, y, all_ in zip(state, after, every, strict=True)
            ]
        last = [
            b.reshape(b.slice(all_, axis=1, start=STAGES, stop=STAGES + 1), shape=x.shape)
            for x, all_ in zip(state, every, strict=True)
        ]
        new = [
            b.where(self._column(b, accepted, old), made, old, out=name)
            for old, made, name in zip(
                (*state, *slopes),
                (*after, *last),
                [*(x.value.name for x in state), *["slope"] * self.parts],
                strict=True,
            )
        ]
        there = b.where(ends, b.scalar(self.last, t), t + step)
        t = b.where(accepted, there, t, out="t")
        h = b.where(active, size * factor, h, out="h")
        evaluations = b.add(evaluations, b.where(active, b.scalar(float(STAGES), h), 0.0), out="evaluations")
        farthest = b.max(self._remaining(b, t), axes=(0,), keepdims=False)
        finished = b.less_equal(farthest, 0.0, out="finished")
        return [*new, t, h, evaluations, finished, *([fits] if self.clips else [])]

    def _stages(
        self,
        b: Builder,
        t: Var,
        step: Var,
        state: tuple[Var, ...],
        slopes: tuple[Var, ...],
        kept: tuple[Var, ...],
    ) -> tuple[list[Var], list[Var]]:
        """The state at the end of a step, and all its slopes [B, S, ...], of which the first are `slopes`."""
        one_hot = np.eye(STAGES + 1)
        every = []
        for slope in slopes:
            first = b.constant(one_hot[0].reshape(1, -1, *[1] * (slope.type.rank - 1)), out="first")
            every.append(b.mul(self._apart(b, slope), first, out="slopes"))
        tables = [b.constant(v, out=n) for n, v in (("places", PLACES), ("weights", WEIGHTS), ("slots", one_hot[1:]))]

        def stage(
            inner: Builder, i: Var, held: tuple[Var, ...], carried: tuple[Var, ...], rows: tuple[Var, ...]
        ) -> tuple[list[Var], tuple[()]]:
            t, step, state, kept = held[0], held[1], held[2 : 2 + self.parts], held[2 + self.parts :]
            place, weights, slot = rows
            every = carried[self.parts :]
            y = [
                inner.add(x, self._combined(inner, all_, weights, step, "moved"), out="point")
                for x, all_ in zip(state, every, strict=True)
            ]
            new = self._slopes(inner, inner.add(t, step * place, out="time"), y, kept)
            more = [
                inner.add(all_, self._apart(inner, slope) * self._row(inner, slot, all_), out="slopes")
                for all_, slope in zip(every, new, strict=True)
            ]
            return [*y, *more], ()

        names = [*["point"] * self.parts, *["slopes"] * self.parts, "place", "weights", "slot"]
        outs = b.loop(
            f"{self.name}.stages",
            STAGES,
            stage,
            invariants=[t, step, *state, *kept],
            carried=[*state, *every],
            tables=tables,
            names=names,
        )
        return list(outs[: self.parts]), list(outs[self.parts :])

    @staticmethod
    def _apart(b: Builder, slope: Var) -> Var:
        """A slope [B, ...] as [B, 1, ...]."""
        return b.reshape(slope, shape=(slope.shape[0], 1, *slope.shape[1:]))

    @staticmethod
    def _row(b: Builder, row: Var, like: Var) -> Var:
        """f32[S] as [1, S, 1, …]."""
        return b.reshape(row, shape=(1, STAGES + 1, *[1] * (like.type.rank - 2)))

    def _combined(self, b: Builder, every: Var, weights: Var | Sequence[float], step: Var, out: str) -> Var:
        """[B, ...]: step times the weighted sum of slopes [B, S, ...]."""
        if isinstance(weights, Var):
            row = self._row(b, weights, every)
        else:
            row = b.constant(np.reshape(weights, (1, -1, *[1] * (every.type.rank - 2))), out=f"{out}_weights")
        total = b.sum(every * row, axes=(1,), keepdims=False, out="slope")
        return b.mul(self._column(b, step, total), total, out=out)

    def _between(self, b: Builder, share: Var, step: Var, x: Var, y: Var, every: Var) -> Var:
        """The state after a `share` [B] of a step from x to y: torchdiffeq's polynomial of order 4."""
        middle = b.add(x, self._combined(b, every, MIDDLE, step, "moved"), out="middle")
        size = self._column(b, step, x)
        start, stop = (
            b.mul(size, b.reshape(b.slice(every, axis=1, start=at, stop=at + 1), shape=x.shape), out=name)
            for at, name in ((0, "start"), (STAGES, "stop"))
        )
        s = self._column(b, share, x)
        quartic = (stop - start) * 2.0 - (x + y) * 8.0 + middle * 16.0
        cubic = start * 5.0 - stop * 3.0 + x * 18.0 + y * 14.0 - middle * 32.0
        square = stop - start * 4.0 - x * 11.0 - y * 5.0 + middle * 16.0
        return b.add(x, s * (start + s * (square + s * (cubic + s * quartic))), out="between")
