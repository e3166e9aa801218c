"""From a table to IR: a program that loops the table's step body over a network.

A coefficient that is 0 or 1 in all rows of a loop leaves out its term or its product; the others are per-step
tables of the loop, so that loops of other steps have the same body.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby

import numpy as np

from latentc.components.contract import Network, Program
from latentc.components.guidance.classifier import SETTING, Slope
from latentc.components.kit import Conditions, Operands, call, guided_call
from latentc.components.samplers.table import Step, Table
from latentc.components.sums import Coefficient, weighted_sum
from latentc.ir.builder import Builder, ModuleBuilder, Var
from latentc.ir.types import B, f32
from latentc_runtime.sources import RandomSource, Setting, SettingSource, Source


def sample_program(
    module: ModuleBuilder,
    network: Network,
    conditions: Conditions,
    table: Table,
    *,
    guided: Callable[[float], bool] | None = None,
    scale: float = 1.0,
    channels: int | None = None,
    instead: Callable[[float], Network | None] | None = None,
    classifier: tuple[Slope, float] | None = None,
    entry: str = "sample",
) -> Program:
    """Adds entry `entry`: x f32[B, C, ...] of normals, the conditions, scale f32[B] with guidance, noise f32[N, B,
    C, ...] for the table's N stochastic steps, if any -> x f32[B, C, ...].

    `guided(progress)` says whether an evaluation that far from noise (0) to data (1) is guided (None: no guidance at
    all); consecutive steps of one answer are one loop. `channels` guides only the first so many; by default those of
    the data. `instead(progress)` is the network that evaluates there in place of `network`, or None.
    `classifier`: whose gradient is added to the score, and the default scale.

    ValueError: guidance without a condition that may be left out, or of more channels than the data has; a learned
    variance of a network without the channels for it.
    """
    _check(network, conditions, table, guided is not None, channels)
    data = network.methods["forward"].input("state").type
    b = module.function(entry)
    x = b.input("x", data)
    told = conditions.operands(b, conditions.inputs(b))
    like = next(iter(told.values())) if told else b.full(x, shape=(), value=0.0, dtype="f32", out="batch")
    strength = b.input("scale", f32(B)) if guided else None
    total = stochastic_rows(table)
    noise = b.input("noise", f32(total, *data.shape)) if total else None
    pull = b.input("classifier_scale", f32(B)) if classifier else None
    request = Request(told, conditions.null, strength, like, pull)
    slope = classifier[0] if classifier else None
    b.output(denoise(b, entry, table, network, request, x, noise, guided, channels, instead, slope))
    module.entries[entry] = b.finish(doc=f"{table.solver}, {table.steps} steps")
    sources: dict[str, Source] = {"x": RandomSource("normal", "x"), **conditions.sources()}
    if guided:
        sources["scale"] = SettingSource("guidance")
    settings = [Setting("guidance", scale)] if guided else []
    if classifier:
        sources["classifier_scale"] = SettingSource(SETTING)
        settings.append(Setting(SETTING, classifier[1]))
    if total:
        sources["noise"] = RandomSource("normal", "step", total)
    evaluations = sum(part.rows * part.evaluations for part in table.parts())
    return Program(entry, table.solver, table.steps, evaluations, sources, tuple(settings))


def denoise(
    b: Builder,
    name: str,
    table: Table,
    network: Network,
    request: Request,
    x: Var,
    noise: Var | None,
    guided: Callable[[float], bool] | None = None,
    channels: int | None = None,
    instead: Callable[[float], Network | None] | None = None,
    slope: Slope | None = None,
) -> Var:
    """Runs a table over `network` in a function, or in the body of a loop: x [rows, C, ...] of normals -> samples.

    `noise` [N, rows, C, ...] is for the table's N stochastic steps, if any. The loops are called `name` with the
    solver. `slope`: the gradient that is added to the score. For the others see `sample_program`.
    """
    asked = _Asked(network, instead or (lambda progress: None), guided or (lambda progress: False))
    guide, total, taken = _guided_channels(network, channels), stochastic_rows(table), 0
    if table.prior != 1.0:
        x = b.mul(x, table.prior, out="x")
    for part in table.parts():
        state = _first_state(b, part, x)
        for first, last, calls in _segments(part, asked):
            rows = part.split(first, last)
            z = None
            if part.stochastic and noise is not None:
                z = noise if rows.rows == total else b.slice(noise, axis=0, start=taken, stop=taken + rows.rows)
                taken += rows.rows
            state = _loop(b, f"{name}.{part.solver}", rows, calls, request, state, z, guide, slope)
        x = state[0]
    return x


def stochastic_rows(table: Table) -> int:
    """N, the number of steps that take noise, over all parts of a table."""
    return sum(part.rows for part in table.parts() if part.stochastic)


def evaluation(
    module: ModuleBuilder,
    network: Network,
    conditions: Conditions,
    entry: str,
    guided: bool = False,
    channels: int | None = None,
) -> dict[str, Source]:
    """Adds entry `entry`, one evaluation: the state x, its time t f32[B], the conditions, scale f32[B] if `guided`.

    Returns the sources of all inputs but x and t. `channels` as of `sample_program`.
    """
    b = module.function(entry)
    x, t = b.input("x", network.methods["forward"].input("state").type), b.input("t", f32(B))
    told = conditions.operands(b, conditions.inputs(b))
    if guided:
        scale, null = b.input("scale", f32(B)), conditions.null(b, told)
        guide = _guided_channels(network, channels)
        b.output(guided_call(b, network, "forward", told, null, scale, guide, state=x, time=t))
    else:
        b.output(call(b, network, "forward", told, state=x, time=t, out="output"))
    module.entries[entry] = b.finish()
    sources: dict[str, Source] = {**conditions.sources()}
    return {**sources, "scale": SettingSource("guidance")} if guided else sources


@dataclass(frozen=True)
class _Call:
    """How an evaluation is made."""

    network: Network
    guided: bool


@dataclass(frozen=True)
class _Asked:
    """What evaluates when; see `sample_program`."""

    network: Network
    instead: Callable[[float], Network | None]
    guided: Callable[[float], bool]

    def at(self, progress: float) -> _Call:
        return _Call(self.instead(progress) or self.network, self.guided(progress))


@dataclass(frozen=True)
class Request:
    """What a sampler is asked for: the operands of the conditions, and the scales f32[B] of guidance if there is any.

    `null` gives the operands without conditions; `scale` is of classifier-free, `pull` of classifier guidance. `like`
    [B, ...] gives the size of the batch; it does not change over the steps, so neither does what only it sizes.
    """

    operands: Operands
    null: Callable[[Builder, Operands], Operands]
    scale: Var | None
    like: Var
    pull: Var | None = None


def _channels(network: Network) -> tuple[int, int]:
    """Channels of the state and of the output."""
    forward = network.methods["forward"]
    return int(forward.input("state").type.shape[1]), int(forward.output().type.shape[1])  # type: ignore[arg-type]


def _check(network: Network, conditions: Conditions, table: Table, guided: bool, channels: int | None) -> None:
    of_state, of_output = _channels(network)
    if guided and not any(condition.nullable for _, condition in conditions.items()):
        raise ValueError(f"guidance needs a condition that may be left out, and network {network.name} has none")
    if channels is not None and channels > of_state:
        raise ValueError(f"{channels} guided channels of data that has {of_state}")
    if table.body.variance and of_output != 2 * of_state:
        raise ValueError(f"a learned variance needs {2 * of_state} channels out of the network, not {of_output}")


def _guided_channels(network: Network, channels: int | None) -> int | None:
    """The `channels` of a guided call: a variance beside the prediction is never guided."""
    of_state, of_output = _channels(network)
    guide = of_state if channels is None else channels
    return None if guide == of_output else guide


def _segments(table: Table, asked: _Asked) -> list[tuple[int, int, tuple[_Call, ...]]]:
    """Runs of rows (first, last + 1) whose evaluations are alike, and what each of a row's evaluations is."""
    calls = [tuple(asked.at(float(progress)) for progress in row) for row in table.progress]
    keys = [tuple((call.network.name, call.guided) for call in row) for row in calls]
    runs = [list(run) for _, run in groupby(range(table.rows), key=keys.__getitem__)]
    return [(run[0], run[-1] + 1, calls[run[0]]) for run in runs]


def _first_state(b: Builder, table: Table, x: Var) -> tuple[Var, ...]:
    """x, the corrected state where the body has one (x itself at first), and empty estimates."""
    if not table.history:
        return (x,)
    zeros = b.mul(x, 0.0, out="h")
    return (x, *[x] * table.body.corrects, *[zeros] * table.history)


def _loop(
    b: Builder,
    name: str,
    table: Table,
    calls: tuple[_Call, ...],
    request: Request,
    state: tuple[Var, ...],
    noise: Var | None,
    channels: int | None,
    slope: Slope | None,
) -> tuple[Var, ...]:
    """One loop over the rows of a table."""
    coefficients = {**table.coefficients, **(table.guides if slope else {})}
    constants = {name: value for name, column in coefficients.items() if (value := _constant(column)) is not None}
    varying = [name for name in coefficients if name not in constants]
    columns = [b.constant(table.columns[name], out=_coefficient_name(name)) for name in varying]
    guided = request.scale is not None and any(call.guided for call in calls)
    invariants = [*request.operands.values()] or [request.like]
    scales = [s for s in (request.scale if guided else None, request.pull) if s is not None]
    invariants += scales

    def body(
        inner: Builder, i: Var, kept: tuple[Var, ...], carried: tuple[Var, ...], rows: tuple[Var, ...]
    ) -> tuple[Sequence[Var], Sequence[Var]]:
        row: dict[str, Coefficient] = {**constants, **dict(zip(varying, rows, strict=False))}
        operands = dict(zip(request.operands, kept, strict=False))
        given = dict(zip(scales, kept[len(kept) - len(scales) :], strict=True))
        scale, pull = (None if s is None else given.get(s) for s in (request.scale, request.pull))
        told = Request(operands, request.null, scale, kept[0], pull)
        evaluate = partial(_evaluate, inner, calls, channels, told, row)
        pulled = None if slope is None else partial(_slope, inner, slope, told, row)
        z = rows[-1] if noise is not None else None
        step = Step(row, carried, z, evaluate, _channels(calls[0].network)[0], table.clip, pulled)
        return table.advance(inner, step), ()

    tables = columns if noise is None else [*columns, noise]
    # One body has one text, wherever its state comes from: then the host drives one engine.
    names = ["x", *["last"] * table.body.corrects, *["h"] * table.history]
    names += [*map(_coefficient_name, varying), *["noise"] * (noise is not None)]
    return b.loop(name, table.rows, body, invariants=invariants, carried=state, tables=tables, names=names)


def _constant(column: np.ndarray) -> float | None:
    """0 or 1 where a column is nothing else, to the last bits of float64; or None."""
    return next((value for value in (0.0, 1.0) if np.all(np.abs(column - value) <= 1e-12)), None)


def _coefficient_name(column: str) -> str:
    """A column's name in the IR, where x, d and noise are tensors."""
    return column if column in ("t", "t_2") else f"k_{column}"


def _told(b: Builder, request: Request, row: Mapping[str, Coefficient], x: Var, which: int) -> tuple[Var, Var]:
    """What networks take in evaluation `which` of a step: the scaled state, and the time f32[B]."""
    t = row[("t", "t_2")[which]]
    x = weighted_sum(b, "scaled", (row.get(("c_in", "c_in_2")[which], 1.0), x))
    one = b.constant(t, "f32") if isinstance(t, float) else t
    return x, b.broadcast_to(one, request.like, shape=(request.like.shape[0],), out="time")


def _slope(b: Builder, slope: Slope, request: Request, row: Mapping[str, Coefficient], x: Var, which: int) -> Var:
    """What classifier guidance adds to the score at x."""
    assert request.pull is not None
    return slope.at(b, *_told(b, request, row, x, which), request.operands["y"], request.pull)


def _evaluate(
    b: Builder,
    calls: tuple[_Call, ...],
    channels: int | None,
    request: Request,
    row: Mapping[str, Coefficient],
    x: Var,
    which: int,
) -> Var:
    """The network at x under the conditions, guided or not, in evaluation `which` of a step with coefficients `row`."""
    x, time = _told(b, request, row, x, which)
    network, told = calls[which].network, request.operands
    if not calls[which].guided:
        return call(b, network, "forward", told, state=x, time=time, out="output")  # type: ignore[no-any-return]
    assert request.scale is not None
    null = request.null(b, told)
    return guided_call(b, network, "forward", told, null, request.scale, channels, state=x, time=time)  # type: ignore[no-any-return]
