"""Modules with further outputs: results of inner calls, other inner values, and operands of a network's calls.

Symbols: N evaluations of a network, B batch.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from latentc.ir.core import Function, Module, Node, Value, callees, join
from latentc.ir.types import Dim, substitute, unify

Array = np.ndarray


@dataclass(frozen=True)
class _Extra:
    """An output added to a function: its call path, and the number of loop axes before its own shape."""

    path: str
    part: int
    loops: int
    value: Value
    function: str = ""


def calls_shown(module: Module, entry: str) -> tuple[Module, list[str]]:
    """`entry` with the first output of every call inside it after its own outputs, in the order calls end.

    Returns the module and the call path of each added output (`blocks.3.attn` before `blocks.3`).
    """

    def shown(fn: Function, node: Node, inner: list[_Extra]) -> Iterator[_Extra]:
        if node.op == "call":
            yield from inner
            yield _Extra(node.attrs["name"], 0, 0, node.outputs[0])

    extended, extras = _extended(module, module.entries[entry], shown)
    return extended, [extra.path for extra in extras]


@dataclass(frozen=True)
class Evaluations:
    """An added output of a sampler: operand `part` of one call.

    It has `loops` leading axes, the trips of the loops around the call; `place` is the body of the outermost of them.
    `function` is what is called.
    """

    function: str
    place: str
    part: int
    loops: int


def network_inputs_shown(
    module: Module, entry: str, methods: Collection[str], operands: int
) -> tuple[Module, list[Evaluations]]:
    """A sampler with the first `operands` of each call of `methods` after its own outputs, in their order."""

    def shown(fn: Function, node: Node, inner: list[_Extra]) -> Iterator[_Extra]:
        if node.op == "call" and node.attrs["fn"] in methods:
            for part, value in enumerate(node.inputs[:operands]):
                yield _Extra("", part, 0, value, node.attrs["fn"])
        elif node.op == "loop":
            yield from inner

    extended, extras = _extended(module, module.entries[entry], shown)
    return extended, [Evaluations(extra.function, extra.path, extra.part, extra.loops) for extra in extras]


def calls(evaluations: Sequence[Evaluations], arrays: Sequence[Array]) -> list[tuple[Array, ...]]:
    """Added outputs of a sampler as evaluations in the order they happen."""
    found: list[tuple[Array, ...]] = []
    columns = zip(evaluations, arrays, strict=True)
    for _, column in itertools.groupby(columns, key=lambda pair: pair[0].place):
        sites: list[list[Array]] = []  # the operands of each call in this place, trips flattened
        for evaluation, array in column:
            if evaluation.part == 0:
                sites.append([])
            outer = array.shape[0] if evaluation.loops else 1
            sites[-1].append(array.reshape(outer, -1, *array.shape[evaluation.loops :]))
        for trip in range(len(sites[0][0])):
            found += [tuple(part[trip, k] for part in site) for site in sites for k in range(site[0].shape[1])]
    return found


def values_shown(module: Module, entry: str, wanted: Mapping[str, Mapping[Value, str]]) -> tuple[Module, list[str]]:
    """`entry` with inner values after its own outputs; `wanted` {function: {value: name}} chooses them.

    Returns the module and the call path of each added output with the value's name (`blocks.3.attn.qkv`). Values that
    no node reads, or that are computed in loops, are not shown.
    """
    done: set[tuple[str, Value]] = set()

    def shown(fn: Function, node: Node, inner: list[_Extra]) -> Iterator[_Extra]:
        for value in node.inputs:
            name = wanted.get(fn.name, {}).get(value)
            if name is not None and (fn.name, value) not in done:
                done.add((fn.name, value))
                yield _Extra(name, 0, 0, value)
        if node.op == "call":
            yield from inner

    extended, extras = _extended(module, module.entries[entry], shown)
    return extended, [extra.path for extra in extras]


_Shown = Callable[[Function, Node, list[_Extra]], Iterator[_Extra]]


def _extended(module: Module, root: str, shown: _Shown) -> tuple[Module, list[_Extra]]:
    """Every function under `root` with the further outputs that `shown` chooses for each node.

    `shown` gets the function, the node, and the outputs already added to its callee, as outputs of the node.
    """
    functions = dict(module.functions)
    added: dict[str, list[_Extra]] = {}

    def visit(name: str) -> list[_Extra]:
        if name in added:
            return added[name]
        fn = module.functions[name]
        nodes, extras, count = [], [], 0
        for node in fn.nodes:
            inner: list[_Extra] = []
            for callee in callees(node):
                for extra in visit(callee):
                    inner.append(_through(node, module.functions[callee], extra, f"shown.{count}"))
                    count += 1
            if inner:
                node = replace(node, outputs=(*node.outputs, *(extra.value for extra in inner)))
            nodes.append(node)
            extras += list(shown(fn, node, inner))
        functions[name] = fn.with_(nodes=tuple(nodes), outputs=(*fn.outputs, *(extra.value for extra in extras)))
        added[name] = extras
        return extras

    extras = visit(root)
    return module.with_(functions=functions), extras


def _through(node: Node, callee: Function, extra: _Extra, name: str) -> _Extra:
    """An added output of a callee as an output called `name` of the node that refers to it."""
    path, type, loops = extra.path, extra.value.type, extra.loops
    if node.op == "loop":
        type, loops = type.with_shape([node.attrs["trip"], *type.shape]), loops + 1
        path = node.attrs["body"]
    else:
        path = join(node.attrs["name"], path)
        sizes: dict[str, Dim] = {}  # of the callee's run-time sizes: a guided call has twice the batch
        for formal, actual in zip(callee.inputs, node.inputs, strict=True):
            unify(formal.type, actual.type, sizes)
        type = substitute(type, sizes)
    return _Extra(path, extra.part, loops, Value(name, type), extra.function)


__all__ = ["Evaluations", "calls", "calls_shown", "network_inputs_shown", "values_shown"]
