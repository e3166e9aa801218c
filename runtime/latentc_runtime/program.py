"""The interpreter of a bundle's programs: loops, engine calls and table rows, run on the host.

Variables hold engine values or arrays and are never inspected, so state stays on the device between calls; but for the
one that may end a loop.
"""

from __future__ import annotations

import functools
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
    watch: Callable[[Callable[[], Variables]], None] | None = None,
    read: Callable[[Value | Array], Array] = np.asarray,
) -> Variables:
    """Run a program; returns its variables at the end.

    `variables`: the program's inputs. `engine(file)`: the engine of a file. `row(name, i)`: row i of a per-step input.
    `tick` is called `ticks(program)` times: after each step of an innermost loop, or once if there are no loops.
    `watch(so_far)` is called after each step but the last of the last outermost loop. `so_far()` is what the program
    would return if that loop ended now: it runs the statements after the loop, such as a decoder. `read(value)` is the
    array of a variable that may end a loop.
    """
    variables = dict(variables)
    _run(program, variables, (), engine, row, tick, read, watch)
    if not _has_loop(program):
        tick()
    return variables


def ticks(program: Sequence[Statement]) -> int:
    """How often a run reports progress."""
    return _loop_ticks(program) or 1


def first_steps(program: Sequence[Statement]) -> tuple[Statement, ...]:
    """The program with one step per loop: it runs every engine, but its result is meaningless."""
    return tuple(s if isinstance(s, EngineCall) else replace(s, trip=1, body=first_steps(s.body)) for s in program)


def variables_read(program: Sequence[Statement]) -> set[str]:
    """Variables that a program reads from outside. A per-step input among them is needed with all its rows."""
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
    read: Callable[[Value | Array], Array],
    watch: Callable[[Callable[[], Variables]], None] | None = None,
) -> None:
    """Run statements in place on `variables`; `outer` are the current steps of the enclosing loops."""
    for place, s in enumerate(program):
        if isinstance(s, EngineCall):
            feeds = {name: variables[variable] for name, variable in s.inputs.items()}
            results = engine(s.file).run(feeds, list(dict.fromkeys(s.outputs.values())), s.shared)
            variables.update({variable: results[name] for variable, name in s.outputs.items()})
            continue
        innermost = not _has_loop(s.body)
        rest = program[place + 1 :]
        watched = watch is not None and not _has_loop(rest)
        tables = {variable: np.asarray(rows) for variable, rows in s.tables.items()}
        for step in range(s.trip):
            at = (*outer, step)
            scope = dict(variables)
            scope.update({variable: rows[step, ...] for variable, rows in tables.items()})
            for variable, rows in s.noise.items():
                scope[variable] = row(rows.input, rows.first + sum(map(operator.mul, at, rows.strides)))
            if s.index is not None:
                scope[s.index] = np.asarray(step, np.int64)
            _run(s.body, scope, at, engine, row, tick, read)
            variables.update({variable: scope[new] for variable, new in s.carried})
            del scope  # frees what is not carried before the next step allocates
            if innermost:
                tick()
            if s.until is not None and bool(read(variables[s.until])):
                for _ in range((s.trip - 1 - step) * (_loop_ticks(s.body) or 1)):
                    tick()  # for skipped steps
                break
            if watch is not None and watched and step < s.trip - 1:
                watch(functools.partial(run_program, rest, variables, engine, row, lambda: None, None, read))


def _has_loop(program: Sequence[Statement]) -> bool:
    return any(not isinstance(s, EngineCall) for s in program)


def _loop_ticks(program: Sequence[Statement]) -> int:
    return sum(s.trip * (_loop_ticks(s.body) or 1) for s in program if not isinstance(s, EngineCall))
