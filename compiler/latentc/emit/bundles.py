"""Values that are always used together, such as the key-value caches of all blocks, as one starred variable.

If the last three or more outputs of a call have the same type and name, they form a bundle: `logits, *caches =
model.decode(…)`. A bundle can be passed on as a whole, be carried through loops, and have one op applied to every
member. A function that uses a member by itself stays as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from latentc.emit.text import base_name, plural
from latentc.ir.core import Function, Module, Node, Value

_LEAST = 3


class _UsedAlone(Exception):
    """A member of a bundle is used by itself."""


@dataclass
class Bundled:
    """A function with each bundle as a single value; `bundles` are those values, also of loop bodies.

    The attribute `function` of a loop node is its rewritten body. An `each` node applies its attribute `node` to every
    member of a bundle.
    """

    function: Function
    bundles: set[Value] = field(default_factory=set)


def bundled(module: Module, fn: Function) -> Bundled:
    """The function with its bundles as single values."""
    work = _Bundler(module)
    try:
        return Bundled(work.function(fn, {}), work.bundles)
    except _UsedAlone:
        return Bundled(fn)


class _Bundler:
    def __init__(self, module: Module) -> None:
        self.module = module
        self.bundles: set[Value] = set()
        self._whole: dict[Value, tuple[Value, ...]] = {}  # first member -> all members
        self._one: dict[Value, Value] = {}  # first member -> the bundle
        self._members: set[Value] = set()

    def function(self, fn: Function, given: dict[int, int]) -> Function:
        """`given` {position: count} are the inputs that form bundles."""
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
        """(value, number of values it stands for), with each whole bundle as one."""
        found, at = [], 0
        while at < len(values):
            members = self._whole.get(values[at])
            if members is not None and tuple(values[at : at + len(members)]) == members:
                found.append((self._one[values[at]], len(members)))
                at += len(members)
            elif values[at] in self._members:
                raise _UsedAlone
            else:
                found.append((values[at], 1))
                at += 1
        return found

    def _node(self, nodes: Sequence[Node], position: int) -> tuple[int, Node]:
        """(number of nodes that it replaces, the new node)."""
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
            raise _UsedAlone
        return 1, node

    def _outputs(self, outputs: Sequence[Value]) -> tuple[Value, ...]:
        start = self._tail(outputs)
        return tuple(outputs) if start is None else (*outputs[:start], self._join(outputs[start:]))

    @staticmethod
    def _tail(outputs: Sequence[Value]) -> int | None:
        """Index of the first of the equal outputs at the end, if there are enough of them."""
        kinds = [(value.type, base_name(value.name)) for value in outputs]
        start = len(outputs)
        while start and kinds[start - 1] == kinds[-1]:
            start -= 1
        return start if len(outputs) - start >= _LEAST else None

    def _guided(self, node: Node) -> Node:
        kinds, guides = node.attrs["kinds"], node.attrs["guides"]
        count = len(kinds)
        runs, others = self._runs(node.inputs[:count]), self._runs(node.inputs[count:-1])
        of_null = iter(others)
        at = 0
        for _, length in runs:  # both branches bundle the same values
            if kinds[at] == "conditional" and next(of_null)[1] != length:
                raise _UsedAlone
            at += length
        rest = (*(v for v, _ in others), *self._packed(node.inputs[-1:]))
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
            raise _UsedAlone
        outputs, at = [], 0
        for one, count in state:
            outputs.append(node.outputs[at] if count == 1 else self._join(node.outputs[at : at + count], one.name))
            at += count
        changed: dict[str, Any] = {"function": inner, "invariants": len(kept), "carried": len(state)}
        if (until := attrs.get("until")) is not None:
            changed["until"] = [one for one, _ in state].index(node.inputs[keep + until])
        inputs = (*(v for v, _ in kept), *(v for v, _ in state), *rows)
        return Node("loop", inputs, (*outputs, *node.outputs[carry:]), {**attrs, **changed}, node.loc)

    def _each(self, nodes: Sequence[Node], position: int) -> tuple[int, Node]:
        """The `each` node for an op that is applied to every member in order."""
        members = self._whole[nodes[position].inputs[0]]
        run = nodes[position : position + len(members)]
        first = run[0]
        alike = len(run) == len(members) and all(
            n.op == first.op and n.inputs == (m,) and repr(n.attrs) == repr(first.attrs)
            for n, m in zip(run, members, strict=True)
        )
        if not alike:
            raise _UsedAlone
        out = self._join([n.outputs[0] for n in run])
        return len(run), Node("each", (self._one[members[0]],), (out,), {"node": first})


def _firsts(kinds: Sequence[str], runs: Sequence[tuple[Value, int]]) -> tuple[str, ...]:
    found, at = [], 0
    for _, count in runs:
        found.append(kinds[at])
        at += count
    return tuple(found)
