"""From a table to IR: the step bodies, and the program that loops them over a network.

A coefficient that is 0 or 1 in all rows of a loop leaves out its term or its product; the others are per-step
tables of the loop, so that loops of other steps have the same body.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from itertools import groupby

import numpy as np

from latentc.components.contract import Network, SampleProgram
from latentc.components.kit import Conditions, Operands, call, guided_call
from latentc.components.samplers.tables import Table
from latentc.ir.builder import Builder, ModuleBuilder, Var
from latentc.ir.types import B, f32
from latentc_runtime.sources import RandomSource, Setting, SettingSource, Source

Coefficient = float | Var
Row = Mapping[str, Coefficient]
# evaluate(b, x, t, guided) -> the network's output
Evaluate = Callable[[Builder, Var, Coefficient, bool], Var]


@dataclass(frozen=True)
class Step:
    """What a step body works on. `state` is x, then what the body carries; `z` the step's noise, if it takes
    any."""

    table: Table
    row: Row
    state: tuple[Var, ...]
    z: Var | None
    evaluate: Callable[[Var, Coefficient, int], Var]  # (x, t, which evaluation of the step) -> output
    channels: int


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
    entry: str = "sample",
) -> SampleProgram:
    """Adds entry `entry`: x f32[B, C, ...] of normals, the conditions, scale f32[B] with guidance, noise f32[N, B,
    C, ...] if any of the table's N stochastic steps takes it -> x f32[B, C, ...].

    `guided(t)` says whether the evaluation at time t is guided (None: no guidance at all); consecutive steps
    of one answer are one loop. `channels` guides only the first so many; by default those of the data.
    `instead(t)` is the network that evaluates at time t in place of `network`, or None.

    ValueError: guidance without a condition that may be left out, or of more channels than the data has; a learned
    variance of a network without the channels for it.
    """
    _check(network, conditions, table, guided is not None, channels)
    asked = _Asked(network, instead or (lambda t: None), guided or (lambda t: False))
    data = network.methods["forward"].input("state").type
    b = module.function(entry)
    x = b.input("x", data)
    told = conditions.operands(b, conditions.inputs(b))
    like = next(iter(told.values())) if told else b.full(x, shape=(), value=0.0, dtype="f32", out="batch")
    strength = b.input("scale", f32(B)) if guided else None
    total = sum(part.rows for part in table.parts() if part.stochastic)
    noise = b.input("noise", f32(total, *data.shape)) if total else None
    guide = _guided_channels(network, channels)

    taken = 0
    for part in table.parts():
        state = _first_state(b, part, x)
        for first, last, calls in _segments(part, asked):
            rows = part.split(first, last)
            z = None
            if part.stochastic and noise is not None:
                z = noise if rows.rows == total else b.slice(noise, axis=0, start=taken, stop=taken + rows.rows)
                taken += rows.rows
            state = _loop(
                b, f"{entry}.{part.solver}", rows, calls, _Request(conditions, told, strength, like), state, z, guide
            )
        x = state[0]
    b.output(x)
    module.entries[entry] = b.finish(doc=f"{table.solver}, {table.steps} steps")
    sources: dict[str, Source] = {"x": RandomSource("normal", "x"), **conditions.sources()}
    if guided:
        sources["scale"] = SettingSource("guidance")
    if total:
        sources["noise"] = RandomSource("normal", "step", total)
    evaluations = sum(part.rows * part.evaluations for part in table.parts())
    settings = (Setting("guidance", scale),) if guided else ()
    return SampleProgram(entry, table.solver, table.steps, evaluations, sources, settings)


@dataclass(frozen=True)
class _Call:
    """How an evaluation is made."""

    network: Network
    guided: bool


@dataclass(frozen=True)
class _Asked:
    """What evaluates at which times; see `sample_program`."""

    network: Network
    instead: Callable[[float], Network | None]
    guided: Callable[[float], bool]

    def at(self, t: float) -> _Call:
        return _Call(self.instead(t) or self.network, self.guided(t))


@dataclass(frozen=True)
class _Request:
    """What a sampler is asked for: the operands of the conditions, and the guidance scale f32[B] if there is one.

    `like` [B, ...] gives the size of the batch; it does not change over the steps, so neither does what only it sizes.
    """

    conditions: Conditions
    operands: Operands
    scale: Var | None
    like: Var


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
    if table.body == "learned_variance" and of_output != 2 * of_state:
        raise ValueError(f"a learned variance needs {2 * of_state} channels out of the network, not {of_output}")


def _guided_channels(network: Network, channels: int | None) -> int | None:
    """The `channels` of a guided call: a variance beside the prediction is never guided."""
    of_state, of_output = _channels(network)
    guide = of_state if channels is None else channels
    return None if guide == of_output else guide


def _segments(table: Table, asked: _Asked) -> list[tuple[int, int, tuple[_Call, ...]]]:
    """Runs of rows (first, last + 1) whose evaluations are alike, and what each of a row's evaluations is."""
    times = ("t", "t_2")[: table.evaluations]
    calls = [tuple(asked.at(float(table.columns[name][i])) for name in times) for i in range(table.rows)]
    keys = [tuple((call.network.name, call.guided) for call in row) for row in calls]
    runs = [list(run) for _, run in groupby(range(table.rows), key=keys.__getitem__)]
    return [(run[0], run[-1] + 1, calls[run[0]]) for run in runs]


def _first_state(b: Builder, table: Table, x: Var) -> tuple[Var, ...]:
    """x, the corrected state where the body has one (x itself at first), and empty estimates."""
    if not table.history:
        return (x,)
    zeros = b.mul(x, 0.0, out="h")
    last = (x,) if table.body == "predictor_corrector" else ()
    return (x, *last, *[zeros] * table.history)


def _loop(
    b: Builder,
    name: str,
    table: Table,
    calls: tuple[_Call, ...],
    request: _Request,
    state: tuple[Var, ...],
    noise: Var | None,
    channels: int | None,
) -> tuple[Var, ...]:
    """One loop over the rows of a table."""
    constants = {name: value for name, column in table.columns.items() if (value := _constant(column)) is not None}
    varying = [name for name in table.columns if name not in constants]
    columns = [b.constant(table.columns[name], out=_coefficient_name(name)) for name in varying]
    guided = request.scale is not None and any(call.guided for call in calls)
    invariants = [*request.operands.values()] or [request.like]
    invariants += [request.scale] if guided and request.scale is not None else []

    def body(
        inner: Builder, i: Var, kept: tuple[Var, ...], carried: tuple[Var, ...], rows: tuple[Var, ...]
    ) -> tuple[Sequence[Var], Sequence[Var]]:
        row: dict[str, Coefficient] = {**constants, **dict(zip(varying, rows, strict=False))}
        operands = dict(zip(request.operands, kept, strict=False))
        told = _Request(request.conditions, operands, kept[-1] if guided else None, kept[0])
        evaluate = partial(_evaluate, inner, calls, channels, told)
        z = rows[-1] if noise is not None else None
        return BODIES[table.body](inner, Step(table, row, carried, z, evaluate, _channels(calls[0].network)[0])), ()

    tables = columns if noise is None else [*columns, noise]
    # One body has one text, wherever its state comes from: then the host drives one engine.
    names = ["x", *["last"] * (table.body == "predictor_corrector"), *["h"] * table.history]
    names += [*map(_coefficient_name, varying), *["noise"] * (noise is not None)]
    return b.loop(name, table.rows, body, invariants=invariants, carried=state, tables=tables, names=names)


def _constant(column: np.ndarray) -> float | None:
    """0 or 1 where a column is nothing else, to the last bits of float64; or None."""
    return next((value for value in (0.0, 1.0) if np.all(np.abs(column - value) <= 1e-12)), None)


def _coefficient_name(column: str) -> str:
    """A column's name in the IR, where x, d and noise are tensors."""
    return column if column in ("t", "t_2") else f"k_{column}"


def _evaluate(
    b: Builder,
    calls: tuple[_Call, ...],
    channels: int | None,
    request: _Request,
    x: Var,
    t: Coefficient,
    which: int,
) -> Var:
    """The network at (x, t) under the conditions, guided or not."""
    network, told = calls[which].network, request.operands
    one = b.constant(t, "f32") if isinstance(t, float) else t
    time = b.broadcast_to(one, request.like, shape=(request.like.shape[0],), out="time")
    if not calls[which].guided:
        return call(b, network, "forward", told, state=x, time=time, out="output")  # type: ignore[no-any-return]
    assert request.scale is not None
    null = request.conditions.null(b, told)
    return guided_call(b, network, "forward", told, null, request.scale, channels, state=x, time=time)  # type: ignore[no-any-return]


# ---- the step bodies; tables/core.py says what they compute


def combination(b: Builder, out: str, *terms: tuple[Coefficient, Var]) -> Var:
    """The sum of coefficient * variable, called `out`, without terms of coefficient 0 and products with 1."""
    kept = [(k, variable) for k, variable in terms if isinstance(k, Var) or k != 0.0]
    if not kept:
        zero: Var = b.mul(terms[0][1], 0.0, out=out)
        return zero
    name = "term" if len(kept) > 1 else out
    *products, last = (v if isinstance(k, float) and k == 1.0 else b.mul(k, v, out=name) for k, v in kept)
    total: Var = b.add(reduce(partial(b.add, out="term"), products), last, out=out) if products else last
    return total


def _estimate(b: Builder, step: Step, x: Var, output: Var, prefix: str = "d") -> Var:
    """The quantity the solver integrates, from the network's output; a variance beside it is left out."""
    if output.shape[1] != step.channels:
        output = b.slice(output, axis=1, start=0, stop=step.channels, out="output")
    estimate = combination(b, prefix, (step.row[f"{prefix}_x"], x), (step.row[f"{prefix}_output"], output))
    if step.table.clip is not None:
        estimate = b.clamp(estimate, low=-step.table.clip, high=step.table.clip, out=prefix)
    return estimate


def _history(row: Row, past: Sequence[Var], prefix: str = "h") -> list[tuple[Coefficient, Var]]:
    return [(row[f"{prefix}{i}"], h) for i, h in enumerate(past, start=1) if f"{prefix}{i}" in row]


def _noise(step: Step) -> list[tuple[Coefficient, Var]]:
    return [] if step.z is None else [(step.row["noise"], step.z)]


def _linear(b: Builder, step: Step) -> tuple[Var, ...]:
    x, *past = step.state
    d = _estimate(b, step, x, step.evaluate(x, step.row["t"], 0))
    new = combination(b, "x", (step.row["x"], x), (step.row["d"], d), *_history(step.row, past), *_noise(step))
    return (new, *[d, *past][: len(past)])


def _learned_variance(b: Builder, step: Step) -> tuple[Var, ...]:
    (x,), row, c = step.state, step.row, step.channels
    output, v = b.split(step.evaluate(x, row["t"], 0), axis=1, sizes=(c, c), out="output v")
    d = _estimate(b, step, x, output)
    log_deviation = b.add(row["log_center"], b.mul(row["log_span"], v, out="term"), out="log_deviation")
    assert step.z is not None  # this body always takes noise
    z = b.mul(b.exp(log_deviation, out="deviation"), step.z, out="z")
    return (combination(b, "x", (row["x"], x), (row["d"], d), (row["noise"], z)),)


def _two_stage(b: Builder, step: Step) -> tuple[Var, ...]:
    (x,), row = step.state, step.row
    y = combination(b, "y", (1.0, x), *_noise(step))
    d = _estimate(b, step, y, step.evaluate(y, row["t"], 0))
    p = combination(b, "p", (row["x"], y), (row["d"], d))
    e = _estimate(b, step, p, step.evaluate(p, row["t_2"], 1), "e")
    return (combination(b, "x", (row["x_2"], y), (row["d_2"], d), (row["e_2"], e)),)


def _predictor_corrector(b: Builder, step: Step) -> tuple[Var, ...]:
    (x, last, *past), row = step.state, step.row
    d = _estimate(b, step, x, step.evaluate(x, row["t"], 0))
    terms = [(row["c_x"], x), (row["c_last"], last), (row["c_d"], d)]
    c = combination(b, "last", *terms, *_history(row, past, "c_h"))
    new = combination(b, "x", (row["x"], c), (row["d"], d), *_history(row, past))
    return (new, c, *[d, *past][: len(past)])


BODIES: Mapping[str, Callable[[Builder, Step], tuple[Var, ...]]] = {
    "linear": _linear,
    "learned_variance": _learned_variance,
    "two_stage": _two_stage,
    "predictor_corrector": _predictor_corrector,
}
