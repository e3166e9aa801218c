"""The interpreter of a bundle's programs: loops, engine calls and table rows, run on the host.

Variables hold engine values or arrays and are never looked into, so state stays on the device between calls.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from latentc_runtime.backends import Array, Engine, Value
from latentc_runtime.manifest import EngineCall, Statement

Variables = dict[str, Value | Array]


def run_program(
    program: Sequence[Statement],
    variables: Variables,
    engine: Callable[[str], Engine],
    row: Callable[[str, int], Array],
    tick: Callable[[], None],
) -> Variables:
    """Run a program and give its variables as they are at the end.

    `variables` are the program's inputs; `engine` gives the engine of a file, `row` row i of a per-step input;
    `tick` is called `ticks(program)` times: after each step of an innermost loop, or at the end without loops.
    """
    variables = dict(variables)
    _run(program, variables, (), engine, row, tick)
    if not _has_loop(program):
        tick()
    return variables


def ticks(program: Sequence[Statement]) -> int:
    """How often a run reports progress."""
    return _loop_ticks(program) or 1


def first_steps(program: Sequence[Statement]) -> tuple[Statement, ...]:
    """The program with one step of each loop: it runs every engine, and its result is of no use."""
    return tuple(s if isinstance(s, EngineCall) else replace(s, trip=1, body=first_steps(s.body)) for s in program)


def variables_read(program: Sequence[Statement]) -> set[str]:
    """Variables a program takes from outside. A per-step input among them is needed whole, with all its rows."""
    read: set[str] = set()
    for s in program:
        if isinstance(s, EngineCall):
            read.update(s.inputs.values())
        else:
            inner = variables_read(s.body) | {new for _, new in s.carried}
            read |= inner - {*s.tables, *s.noise, s.index}
    return read


def _run(
    program: Sequence[Statement],
    variables: Variables,
    outer: tuple[int, ...],
    engine: Callable[[str], Engine],
    row: Callable[[str, int], Array],
    tick: Callable[[], None],
) -> None:
    """Run statements in place on `variables`; `outer` are the steps that the loops around them are at."""
    for s in program:
        if isinstance(s, EngineCall):
            feeds = {name: variables[variable] for name, variable in s.inputs.items()}
            results = engine(s.file).run(feeds, list(dict.fromkeys(s.outputs.values())), s.shared)
            variables.update({variable: results[name] for variable, name in s.outputs.items()})
            continue
        innermost = not _has_loop(s.body)
        tables = {variable: np.asarray(rows) for variable, rows in s.tables.items()}
        for step in range(s.trip):
            at = (*outer, step)
            scope = dict(variables)
            scope.update({variable: rows[step, ...] for variable, rows in tables.items()})
            for variable, rows in s.noise.items():
                scope[variable] = row(rows.input, rows.first + sum(map(operator.mul, at, rows.strides)))
            if s.index is not None:
                scope[s.index] = np.asarray(step, np.int64)
            _run(s.body, scope, at, engine, row, tick)
            variables.update({variable: scope[new] for variable, new in s.carried})
            del scope  # what is not carried is freed before the next step allocates its own
            if innermost:
                tick()


def _has_loop(program: Sequence[Statement]) -> bool:
    return any(not isinstance(s, EngineCall) for s in program)


def _loop_ticks(program: Sequence[Statement]) -> int:
    return sum(s.trip * (_loop_ticks(s.body) or 1) for s in program if not isinstance(s, EngineCall))
