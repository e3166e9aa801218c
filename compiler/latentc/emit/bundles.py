"""Values that always travel together, such as the key-value caches of all blocks, as one starred variable.

A call that ends in three or more outputs of one type and name makes a bundle: `logits, *caches = model.decode(…)`. A
bundle may be passed on whole, carried through loops, and have one op applied to each member; where a member is used
alone, the function is left as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from latentc.emit.text import base_name, plural
from latentc.ir.core import Function, Module, Node, Value

_LEAST = 3


class _Apart(Exception):
    """A member of a bundle is used alone."""


@dataclass
class Bundled:
    """A function with its bundles as single values; `bundles` holds those, of loop bodies too.

    A loop's rewritten body is in the node's attribute `function`; `each` applies a node (attribute `node`) to every
    member of a bundle.
    """

    function: Function
    bundles: set[Value] = field(default_factory=set)


def bundled(module: Module, fn: Function) -> Bundled:
    """The function with what travels together as one value."""
    work = _Bundler(module)
    try:
        return Bundled(work.function(fn, {}), work.bundles)
    except _Apart:
        return Bundled(fn)


class _Bundler:
    def __init__(self, module: Module) -> None:
        self.module = module
        self.bundles: set[Value] = set()
        self._whole: dict[Value, tuple[Value, ...]] = {}  # first member -> all
        self._one: dict[Value, Value] = {}  # first member -> what stands for all
        self._members: set[Value] = set()

    def function(self, fn: Function, given: dict[int, int]) -> Function:
        """`given` {position: count}: inputs that are bundles."""
        for start, count in given.items():
            self._join(fn.inputs[start : start + count])
        nodes: list[Node] = []
        position = 0
        while position < len(fn.nodes):
            taken, node = self._node(fn.nodes, position)
            nodes.append(node)
            position += taken
        return fn.with_(inputs=self._packed(fn.inputs), nodes=tuple(nodes), outputs=self._packed(fn.outputs))

    def _join(self, values: Sequence[Value], name: str = "") -> Value:
        name = name or base_name(values[0].name)
        one = Value(plural(name), values[0].type)
        self._whole[values[0]], self._one[values[0]] = tuple(values), one
        self._members.update(values)
        self.bundles.add(one)
        return one

    def _packed(self, values: Sequence[Value]) -> tuple[Value, ...]:
        return tuple(one for one, _ in self._runs(values))

    def _runs(self, values: Sequence[Value]) -> list[tuple[Value, int]]:
        """The values with each whole bundle as one, and how many values each stands for."""
        found, at = [], 0
        while at < len(values):
            members = self._whole.get(values[at])
            if members is not None and tuple(values[at : at + len(members)]) == members:
                found.append((self._one[values[at]], len(members)))
                at += len(members)
            elif values[at] in self._members:
                raise _Apart
            else:
                found.append((values[at], 1))
                at += 1
        return found

    def _node(self, nodes: Sequence[Node], position: int) -> tuple[int, Node]:
        """(how many nodes it replaces, the node)."""
        node = nodes[position]
        match node.op:
            case "call":
                return 1, Node("call", self._packed(node.inputs), self._outputs(node.outputs), node.attrs, node.loc)
            case "guided":
                return 1, self._guided(node)
            case "loop":
                return 1, self._loop(node)
        if node.inputs and node.inputs[0] in self._whole:
            return self._each(nodes, position)
        if any(v in self._members for v in node.inputs):
            raise _Apart
        return 1, node

    def _outputs(self, outputs: Sequence[Value]) -> tuple[Value, ...]:
        start = self._tail(outputs)
        return tuple(outputs) if start is None else (*outputs[:start], self._join(outputs[start:]))

    @staticmethod
    def _tail(outputs: Sequence[Value]) -> int | None:
        """Where the equal outputs at the end begin, if there are enough."""
        last, start = outputs[-1], len(outputs)
        while start and outputs[start - 1].type == last.type and _alike(outputs[start - 1], last):
            start -= 1
        return start if len(outputs) - start >= _LEAST else None

    def _guided(self, node: Node) -> Node:
        kinds, guides = node.attrs["kinds"], node.attrs["guides"]
        count = len(kinds)
        runs, rest = self._runs(node.inputs[:count]), self._packed(node.inputs[count:])
        outputs = self._outputs(node.outputs)
        attrs = {**node.attrs, "kinds": _firsts(kinds, runs), "guides": tuple(guides[: len(outputs)])}
        return Node("guided", (*(v for v, _ in runs), *rest), outputs, attrs, node.loc)

    def _loop(self, node: Node) -> Node:
        attrs, body = node.attrs, self.module.functions[node.attrs["body"]]
        keep, carry = attrs["invariants"], attrs["carried"]
        kept, state = self._runs(node.inputs[:keep]), self._runs(node.inputs[keep : keep + carry])
        rows = self._packed(node.inputs[keep + carry :])
        given, at = {}, 1
        for _, count in [*kept, *state]:
            if count > 1:
                given[at] = count
            at += count
        inner = self.function(body, given)
        made = self._runs(body.outputs[:carry])
        if [count for _, count in made] != [count for _, count in state]:
            raise _Apart
        outputs, at = [], 0
        for one, count in state:
            outputs.append(node.outputs[at] if count == 1 else self._join(node.outputs[at : at + count], one.name))
            at += count
        changed: dict[str, Any] = {"function": inner, "invariants": len(kept), "carried": len(state)}
        inputs = (*(v for v, _ in kept), *(v for v, _ in state), *rows)
        return Node("loop", inputs, (*outputs, *node.outputs[carry:]), {**attrs, **changed}, node.loc)

    def _each(self, nodes: Sequence[Node], position: int) -> tuple[int, Node]:
        """One op applied to every member in turn."""
        members = self._whole[nodes[position].inputs[0]]
        run = nodes[position : position + len(members)]
        first = run[0]
        alike = len(run) == len(members) and all(
            n.op == first.op and n.inputs == (m,) and repr(n.attrs) == repr(first.attrs)
            for n, m in zip(run, members, strict=True)
        )
        if not alike:
            raise _Apart
        out = self._join([n.outputs[0] for n in run])
        return len(run), Node("each", (self._one[members[0]],), (out,), {"node": first})


def _alike(a: Value, b: Value) -> bool:
    return base_name(a.name) == base_name(b.name)


def _firsts(kinds: Sequence[str], runs: Sequence[tuple[Value, int]]) -> tuple[str, ...]:
    found, at = [], 0
    for _, count in runs:
        found.append(kinds[at])
        at += count
    return tuple(found)
