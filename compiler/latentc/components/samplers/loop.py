"""One loop of a sampling program: its rows' coefficients, and the step body over a network under guidance.

A coefficient that is 0 or 1 in all rows leaves out its term or its product; the others are per-step tables of the loop,
so that loops of other steps have the same body. Symbols: B batch, C channels, N rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from latentc.components.samplers._thresholds import Bound
from latentc.components.samplers.guided import Evaluation, Request, prediction, state_channels, weight_column
from latentc.components.samplers.memory import branched
from latentc.components.samplers.table import DATA, DATA_PART, Step, Table
from latentc.components.sums import Coefficient, weighted_sum
from latentc.ir.builder import Builder, Var

Impose = Callable[[Builder, Var, Var, tuple[Var, ...], Coefficient], Var]
"""State x [B, C, ...] with the known part of another one, given further operands; x itself if the last, a share, is 0.
"""


@dataclass(frozen=True)
class Known:
    """A part of the sample that is given: `given` [B, C, ...], noised after rows by `noise` [N, B, C, ...], or by
    `noise` [B, C, ...] after all of them (`same_noise`).

    The table has columns `known_alpha`, `known_sigma` and `known`: 1 where the part is replaced, else 0. `operands` are
    what `impose` takes. `start` makes the first state of one of noise.
    """

    given: Var
    noise: Var
    impose: Impose
    start: Callable[[Builder, Var], Var]
    operands: tuple[Var, ...] = ()
    same_noise: bool = False

    def split(self, b: Builder, first: int, last: int) -> Known:
        """For rows first to last - 1 of the table."""
        if self.same_noise:
            return self
        return replace(self, noise=b.slice(self.noise, axis=0, start=first, stop=last))


def _columns(table: Table, evaluations: Sequence[Evaluation]) -> dict[str, np.ndarray]:
    """The coefficients of a loop: those of the step body, of guidance and of changes of the conditions."""
    columns = dict(table.coefficients)
    for which, one in enumerate(evaluations):
        if one.slopes:
            columns |= {name: column for name, column in table.guides.items() if name[0] == "de"[which]}
        if any(slope.OF_DATA for _, slope in one.slopes):
            columns |= table.data(which)
        if one.of_data:
            columns |= table.data_part(which)
        progress = [float(p) for p in table.progress[:, which]]
        columns |= {weight_column(guide, which): guide.weights(progress) for guide in one.guides}
        if one.conditions is not None:
            columns |= one.conditions.columns(progress, which)
    return columns


def loop(
    b: Builder,
    name: str,
    table: Table,
    evaluations: tuple[Evaluation, ...],
    request: Request,
    state: tuple[Var, ...],
    noise: Var | None,
    kick: Mapping[str, Var],
    memory: Sequence[Var],
    known: Known | None = None,
) -> tuple[Var, ...]:
    """One loop over the rows of a table: its state, then the memory. `kick` is what its evaluations draw, by name."""
    coefficients = _columns(table, evaluations)
    constants = {name: value for name, column in coefficients.items() if (value := _constant(column)) is not None}
    varying = [name for name in coefficients if name not in constants]
    columns = [b.constant(coefficients[name], out=_coefficient_name(name)) for name in varying]
    used = dict.fromkeys(guide.input for one in evaluations for guide in one.guides)
    invariants = [*(request.operands.values() or [request.like]), *(request.scales[key] for key in used)]
    asks = len(invariants)
    invariants += [] if known is None else [known.given, *known.operands]
    drawn = [] if known is None else [known.noise]
    if known is not None and known.same_noise:
        invariants, drawn = [*invariants, *drawn], []

    def body(
        inner: Builder, i: Var, kept: tuple[Var, ...], carried: tuple[Var, ...], rows: tuple[Var, ...]
    ) -> tuple[Sequence[Var], Sequence[Var]]:
        values: dict[str, Coefficient] = {**constants, **dict(zip(varying, rows, strict=False))}
        others = rows[len(varying) :]
        kicks = dict(zip(kick, others[len(others) - len(kick) :], strict=True))
        operands = dict(zip(request.operands, kept, strict=False))
        scales = dict(zip(used, kept[asks - len(used) : asks], strict=True))
        asked = Request(operands, request.null, request.nullable, kept[0], scales, request.coupling)
        carried, remembered = carried[: len(state)], list(carried[len(state) :])
        row = _Row(inner, evaluations, asked, values, kicks, remembered, table.clip)
        slope = row.slope if any(one.slopes for one in evaluations) else None
        z = others[0] if noise is not None else None
        step = Step(values, carried, z, row.evaluate, state_channels(evaluations[0].network), table.clip, slope)
        new = table.advance(inner, step)
        if known is not None:
            given, *more = kept[asks:]
            unit = more.pop() if known.same_noise else others[noise is not None]
            noised = weighted_sum(inner, "target", (values["known_alpha"], given), (values["known_sigma"], unit))
            x = known.impose(inner, new[0], noised, tuple(more), values["known"])
            new = (x, *new[1:])
        return (*new, *remembered), ()

    tables = [*columns, *([] if noise is None else [noise]), *drawn, *kick.values()]
    # One body has one text, wherever its state comes from, so the host drives a single engine.
    names = ["x", *["last"] * table.body.corrects, *["h"] * table.history, *["memory"] * len(memory)]
    names += [*map(_coefficient_name, varying), *["noise"] * (noise is not None)]
    names += [*["known_noise"] * len(drawn), *kick]
    carried = [*state, *memory]
    return b.loop(name, table.rows, body, invariants=invariants, carried=carried, tables=tables, names=names)


def _constant(column: np.ndarray) -> float | None:
    """0 or 1 where a column is nothing else, to the last bits of float64; or None."""
    return next((value for value in (0.0, 1.0) if np.all(np.abs(column - value) <= 1e-12)), None)


def _coefficient_name(column: str) -> str:
    """A column's name in the IR, where x, d and noise are tensors."""
    return column if column in ("t", "t_2", "span", "span_2") else f"k_{column}"


@dataclass(frozen=True)
class _Row:
    """One row of a loop: what evaluates in it, for which request, with which coefficients.

    `memory` is replaced by what each evaluation returns. `clip`: bound of the data that a network predicts, or None.
    """

    b: Builder
    evaluations: tuple[Evaluation, ...]
    request: Request
    coefficients: Mapping[str, Coefficient]
    kicks: Mapping[str, Var]
    memory: list[Var]
    clip: Bound | None

    def evaluate(self, x: Var, which: int) -> Var:
        """The prediction at x [B, C, ...] in evaluation `which` of the step."""
        one, request, given = self.evaluations[which], self.request, self._network_inputs(x, which)
        if one.conditions is not None:
            changed = one.conditions.operands(self.b, request.operands, self.coefficients, self.kicks, which)
            request = replace(request, operands=changed)
        with branched(self.b, self.memory, bool(one.contrasts), any(e.contrasts for e in self.evaluations)) as memory:
            out = prediction(self.b, one, request, self.coefficients, *given, which, memory, self.kicks, self.clip)
        coupling = self.request.coupling
        return out if coupling is None else coupling.confined(self.b, out, self.request.operands)

    def slope(self, x: Var, which: int) -> Var:
        """The sum of the slopes that guidance adds to the score at x [B, C, ...] in evaluation `which` of the step."""
        x, (time, *_) = self._network_inputs(x, which)
        slopes = []
        for guide, slope in self.evaluations[which].slopes:
            scale, weight = self.request.scales[guide.input], self.coefficients[weight_column(guide, which)]
            scale = scale if isinstance(weight, float) else self.b.mul(scale, weight, out="scale")
            names = (*DATA_PART[which], *DATA[which]) if slope.OF_DATA else ()
            k = {name.removesuffix("_2"): self._scalar(self.coefficients[name]) for name in names}
            k |= {noise.name: self.kicks[noise.input(which)] for noise in slope.noise}
            slopes.append(slope(self.b, x, time, self.request.operands, scale, k))
        return weighted_sum(self.b, "slope", *((1.0, slope) for slope in slopes)) if len(slopes) > 1 else slopes[0]

    def _network_inputs(self, x: Var, which: int) -> tuple[Var, list[Var]]:
        """The scaled state [B, C, ...] that networks are given, and the time f32[B], then the span if there is one."""
        x = weighted_sum(self.b, "scaled", (self.coefficients.get(("c_in", "c_in_2")[which], 1.0), x))
        names = {("t", "t_2")[which]: "time", ("span", "span_2")[which]: "span"}
        return x, [
            self._of_all(self.coefficients[name], out) for name, out in names.items() if name in self.coefficients
        ]

    def _scalar(self, coefficient: Coefficient) -> Var:
        """f32[]: a coefficient as a value."""
        return self.b.constant(coefficient, "f32") if isinstance(coefficient, float) else coefficient

    def _of_all(self, coefficient: Coefficient, out: str) -> Var:
        """f32[B]: a coefficient for every sample."""
        one, like = self._scalar(coefficient), self.request.like
        return self.b.broadcast_to(one, like, shape=(like.shape[0],), out=out)  # type: ignore[no-any-return]


__all__ = ["Impose", "Known", "loop"]
