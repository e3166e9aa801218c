"""The methods of networks that programs call, and inputs to compare them on, taken from a run of each program.

The run is by the interpreter in float32, with the methods on the engine, so that nothing else has to be compiled.

Symbols: B batch.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

import numpy as np

from latentc.components.contract import Method, Network
from latentc.engines import ENGINES
from latentc.export.forms import for_form
from latentc.ir.core import only_entry
from latentc.measure.calls import Call, Path, Watched, calls_of, methods_of, place_of, rows_of, spread, with_rows
from latentc.measure.execute import Runner, runner
from latentc.measure.metrics import relative_error
from latentc.measure.subject import Subject
from latentc_runtime.request import Request

Array = np.ndarray
Operands = Sequence[Array]

POINTS = 4
"""Calls of a method along a program that are compared."""


@dataclass(frozen=True)
class Called:
    """A method of a network, its engine, and the operands of some calls with their places (`t=981`, `call 3 of 50`)."""

    network: Network
    name: str
    engine: Runner
    calls: list[tuple[str, Operands]]

    @property
    def method(self) -> Method:
        return self.network.methods[self.name]

    @property
    def title(self) -> str:
        return title_of(self.network.name, self.name)

    def feeds(self, sizes: Sequence[int], count: int) -> list[tuple[str, int, Operands]]:
        """(place, batch, operands) by batch: places and `sizes` take turns, so that each occurs.

        The calls were made for `count` samples. If a call has several rows per sample, as batched guidance does, the
        rows of its branches take turns.
        """
        turns = range(max(len(self.calls), len(sizes)))
        pairs = sorted(
            ((self.calls[i % len(self.calls)], sizes[i % len(sizes)]) for i in turns), key=lambda pair: pair[1]
        )
        return [(place, size, self._resized(operands, size, count)) for (place, operands), size in pairs]

    def _resized(self, operands: Operands, size: int, count: int) -> Operands:
        types = [port.type for port in self.method.inputs]
        rows = next((n for x, type in zip(operands, types, strict=True) if (n := rows_of(x, type))), 0)
        order = np.arange(rows)
        if rows % count == 0:
            order = order.reshape(-1, count).T.reshape(-1)
        chosen = np.resize(order, size)
        return [with_rows(x, type, chosen) for x, type in zip(operands, types, strict=True)]


def title_of(network: str, method: str) -> str:
    """`forward`, or `forward small` of another network than `main`."""
    return method if network == "main" else f"{method} {network}"


def called_methods(
    subject: Subject, requests: Sequence[Request], seconds: float, methods: Mapping[str, str] | None = None
) -> list[Called]:
    """The methods that the programs of `requests` call, in the order of their first calls.

    A program of which every method has been called is left after `seconds`. `methods`: only these {function: method};
    all by default.
    """
    lowered, found = subject.expanded, dict[str, Called]()
    methods = methods_of(lowered) if methods is None else methods
    for request in requests:
        entry = subject.program(request.entry).entry
        module = only_entry(lowered.module, entry)
        every = calls_of(module, entry, methods)
        new = {c.entry: _called(subject, c) for c in spread(every, 1) if c.entry not in found}
        if not new:
            continue
        found |= new
        wanted = {call.path for call in spread(every, POINTS) if call.entry in new}
        engines = {name: called.engine for name, called in found.items()}
        with contextlib.suppress(_OutOfTime):
            seen = functools.partial(_keep, new, wanted, every, time.perf_counter() + seconds)
            Watched(module, methods, subject.arrays, seen, engines, "f32").run(entry, *subject.operands(request))
    return list(found.values())


def _called(subject: Subject, call: Call) -> Called:
    """A method as it is deployed, after all passes, on the bundle's engine."""
    target = subject.spec.target
    module = for_form(only_entry(subject.exported.module, call.entry), "loop", ENGINES[target.engine])
    engine = runner(module, call.entry, subject.deployed, target.opset, subject.backend)
    return Called(subject.expanded.networks[call.network], call.method, engine, [])


def _keep(
    new: Mapping[str, Called],
    wanted: Set[Path],
    every: Sequence[Call],
    end: float,
    call: Call,
    operands: Operands,
) -> None:
    """Adds a `wanted` call to its method in `new`; ends the run if the clock is past `end` and no method is missing."""
    if call.path in wanted:
        called = new[call.entry]
        called.calls.append((place_of(call, every, called.method.inputs, operands), operands))
    if time.perf_counter() > end and all(called.calls for called in new.values()):
        raise _OutOfTime


class _OutOfTime(Exception):
    pass


def largest_error(result: Sequence[Array], reference: Sequence[Array], called: Called | None) -> float:
    """The largest relative error of all outputs.

    Caches are judged by the size of all outputs: a feature cache holds a small difference of large values.
    """
    roles = [port.role for port in called.method.outputs] if called else ["output"] * len(result)
    size = max(float(np.max(np.abs(x), initial=0.0)) for x in reference)
    return max(
        relative_error(a, b, size if role == "cache" else 0.0)
        for a, b, role in zip(result, reference, roles, strict=True)
    )
