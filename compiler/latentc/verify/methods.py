"""The methods of networks that programs call, and inputs to compare them on, taken from a run of each program.

The run is by the interpreter in float32, with the methods on the engine, so that nothing else has to be compiled.

Symbols: B batch.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from latentc.components.contract import Method, Network
from latentc.ir.core import only_entry
from latentc.ir.types import Sym, TensorType
from latentc.measure.calls import Watching, calls_of, methods_of, spread
from latentc.measure.execute import executable
from latentc.measure.metrics import relative_error
from latentc.measure.subject import Subject
from latentc_runtime.request import Request

Array = np.ndarray
Operands = Sequence[Array]
Runner = Callable[[Operands], list[Array]]

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
        """`forward`, or `forward small` of another network than `main`."""
        return self.name if self.network.name == "main" else f"{self.name} {self.network.name}"

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
        rows = next((n for x, type in zip(operands, types, strict=True) if (n := _rows(x, type))), 0)
        order = np.arange(rows)
        if rows % count == 0:
            order = order.reshape(-1, count).T.reshape(-1)
        chosen = np.resize(order, size)
        return [_taken(x, type, chosen) for x, type in zip(operands, types, strict=True)]


def called_methods(subject: Subject, requests: Sequence[Request], seconds: float) -> list[Called]:
    """The methods that the programs of `requests` call, in the order of their first calls.

    A program of which every method has been called is left after `seconds`.
    """
    found: dict[tuple[str, str], Called] = {}
    for request in requests:
        _add_called(found, subject, request, seconds)
    return list(found.values())


def _add_called(found: dict[tuple[str, str], Called], subject: Subject, request: Request, seconds: float) -> None:
    """Adds the methods that one program calls to those that others have called."""
    lowered, entry = subject.expanded, subject.program(request.entry).entry
    module, methods = only_entry(lowered.module, entry), methods_of(lowered)
    every = calls_of(module, entry, methods)
    totals = Counter((call.network, call.method) for call in every)
    new = {
        (network, method): Called(lowered.networks[network], method, _engine(subject, network, method), [])
        for network, method in totals
        if (network, method) not in found
    }
    if not new:
        return
    found |= new
    wanted = {call.path for call in spread(every, POINTS) if (call.network, call.method) in new}
    counts: Counter[tuple[str, str]] = Counter()
    upcoming = iter(every)
    end = time.perf_counter() + seconds

    def seen(network: str, method: str, operands: Operands) -> None:
        counts[network, method] += 1
        if next(upcoming).path in wanted:
            called, total = new[network, method], totals[network, method]
            times = [x for x, port in zip(operands, called.method.inputs, strict=True) if port.role == "time"]
            place = f"call {counts[network, method]} of {total}" if total > 1 else "sampled"
            called.calls.append((f"t={float(times[0].reshape(-1)[0]):.4g}" if times else place, operands))
        if time.perf_counter() > end and all(one.calls for one in new.values()):
            raise _OutOfTime

    engines = {key: called.engine for key, called in found.items()}
    with contextlib.suppress(_OutOfTime):
        Watching(module, subject.arrays, methods, seen, engines, "f32").run(entry, *subject.operands(request))


class _OutOfTime(Exception):
    pass


def _engine(subject: Subject, network: str, method: str) -> Runner:
    """A method as it is deployed, after all passes, on the bundle's engine."""
    entry, lowered = f"{network}.{method}", subject.exported
    run = executable(lowered.module, entry, subject.deployed, subject.spec.target.opset, subject.backend)
    names = [value.name for value in lowered.module.entry(entry).inputs]
    return lambda operands: run(dict(zip(names, operands, strict=True)))


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


def _rows(array: Array, type: TensorType) -> int:
    return next(
        (size // dim.factor for size, dim in zip(array.shape, type.shape, strict=True) if isinstance(dim, Sym)), 0
    )


def _taken(array: Array, type: TensorType, rows: Array) -> Array:
    """Some rows of an operand, along its axis of run-time size."""
    for axis, dim in enumerate(type.shape):
        if isinstance(dim, Sym):
            places = (rows[:, None] * dim.factor + np.arange(dim.factor)).reshape(-1)
            array = np.take(array, places, axis)
    return array


__all__ = ["Called", "Operands", "Runner", "called_methods", "largest_error"]
