"""Modules with further outputs: results of inner calls, and other inner values."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from latentc.ir.core import Function, Module, Node, Value, join
from latentc.ir.types import Dim, substitute, unify

Shown = tuple[str, Value]  # an added output: its path from the function it is an output of, and the value


def calls_shown(module: Module, entry: str) -> tuple[Module, list[str]]:
    """`entry` with the first output of every call inside it after its own outputs, in the order calls end.

    Returns the module and the call path of each added output (`blocks.3.attn` before `blocks.3`). Calls in loops are
    not shown.
    """

    def shown(fn: Function, node: Node, inner: list[Shown]) -> Iterable[Shown]:
        return [*inner, (node.attrs["name"], node.outputs[0])] if node.op == "call" else []

    return _extended(module, entry, shown)


def values_shown(module: Module, entry: str, wanted: Mapping[str, Mapping[Value, str]]) -> tuple[Module, list[str]]:
    """`entry` with inner values after its own outputs; `wanted` {function: {value: name}} chooses them.

    Returns the module and the call path of each added output with the value's name (`blocks.3.attn.qkv`). Values that
    no node reads, or that are computed in loops, are not shown.
    """
    done: set[tuple[str, Value]] = set()

    def shown(fn: Function, node: Node, inner: list[Shown]) -> Iterable[Shown]:
        for value in node.inputs:
            name = wanted.get(fn.name, {}).get(value)
            if name is not None and (fn.name, value) not in done:
                done.add((fn.name, value))
                yield name, value
        yield from inner

    return _extended(module, entry, shown)


def _extended(
    module: Module, entry: str, shown: Callable[[Function, Node, list[Shown]], Iterable[Shown]]
) -> tuple[Module, list[str]]:
    """`entry` and copies of the functions it calls, with the further outputs that `shown` chooses for each node.

    `shown` gets the function, the node, and the outputs already added to the function it calls, as the node's own.
    """
    functions = dict(module.functions)
    added: dict[str, list[Shown]] = {}

    def copy(name: str) -> list[Shown]:
        if name in added:
            return added[name]
        fn = module.functions[name]
        nodes, extras, count = [], list[Shown](), 0
        for node in fn.nodes:
            inner: list[Shown] = []
            if node.op == "call" and (within := copy(node.attrs["fn"])):
                for path, value in within:
                    inner.append(_through(node, module.functions[node.attrs["fn"]], path, value, f"shown.{count}"))
                    count += 1
                outputs = (*node.outputs, *(value for _, value in inner))
                node = replace(node, outputs=outputs, attrs={**node.attrs, "fn": _copy_name(node.attrs["fn"])})
            nodes.append(node)
            extras += shown(fn, node, inner)
        outputs = (*fn.outputs, *(value for _, value in extras))
        functions[_copy_name(name)] = fn.with_(name=_copy_name(name), nodes=tuple(nodes), outputs=outputs)
        added[name] = extras
        return extras

    extras = copy(module.entries[entry])
    entries = {**module.entries, entry: _copy_name(module.entries[entry])}
    return module.with_(functions=functions, entries=entries), [path for path, _ in extras]


def _copy_name(function: str) -> str:
    return f"{function}.shown"


def _through(node: Node, callee: Function, path: str, value: Value, name: str) -> Shown:
    """An added output of a callee as an output called `name` of the node that calls it."""
    sizes: dict[str, Dim] = {}  # of the callee's run-time sizes: a guided call has twice the batch
    for formal, actual in zip(callee.inputs, node.inputs, strict=True):
        unify(formal.type, actual.type, sizes)
    return join(node.attrs["name"], path), Value(name, substitute(value.type, sizes))
