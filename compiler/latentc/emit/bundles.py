"""Values that are always used together, such as the key-value caches of all blocks, as one starred variable.

If three or more outputs of a call in a row have the same type and name, they form a bundle: `logits, *caches =
model.decode(…)`. A bundle can be passed on as a whole, be carried through loops, and have the same ops applied to every
member. If a member is used by itself, only the last outputs of calls form bundles; if one of those is, none do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from latentc.emit.repeats import without_duplicates
from latentc.emit.text import base_name, plural
from latentc.ir.core import Function, Module, Node, Value

_LEAST = 3


class _UsedAlone(Exception):
    """A member of a bundle is used by itself."""


@dataclass
class Bundled:
    """A function with each bundle as a single value; `bundles` counts their members, also in loop bodies.

    The attribute `function` of a loop node is its rewritten body. An `each` node applies its attribute `nodes`, a chain
    of ops, to every member of a bundle, its first input; the other inputs are those of the chain, in order.
    """

    function: Function
    bundles: dict[Value, int] = field(default_factory=dict)


def bundled(module: Module, fn: Function) -> Bundled:
    """The function with its bundles as single values."""
    for last in (False, True):
        work = _Bundler(module, last)
        try:
            return Bundled(work.function(_once(fn), {}), work.bundles)
        except _UsedAlone:
            continue
    return Bundled(fn)


def _once(fn: Function) -> Function:
    """The function without duplicates: members may be indexed by equal values, each computed for one of them."""
    nodes, same = without_duplicates(fn.nodes)
    return fn.with_(nodes=tuple(nodes), outputs=tuple(same.get(v, v) for v in fn.outputs))


class _Bundler:
    def __init__(self, module: Module, last: bool) -> None:
        self.module, self.last = module, last
        self.bundles: dict[Value, int] = {}
        self._whole: dict[Value, tuple[Value, ...]] = {}  # first member -> all members
        self._one: dict[Value, Value] = {}  # first member -> the bundle
        self._members: set[Value] = set()

    def function(self, fn: Function, given: dict[int, int]) -> Function:
        """`given` {position: count} are the inputs that form bundles."""
        for start, count in given.items():
            self._join(fn.inputs[start : start + count])
        nodes: list[Node] = []
        done: set[Node] = set()
        for position, node in enumerate(fn.nodes):
            if node not in done:
                taken, new = self._node(fn.nodes, position)
                done.update(taken)
                nodes.append(new)
        outputs = self._packed(fn.outputs)
        nodes = _chained(nodes, outputs)
        if any(v in self.bundles and v is not n.inputs[0] for n in nodes if n.op == "each" for v in n.inputs):
            raise _UsedAlone  # two lists would have to be read side by side
        return fn.with_(inputs=self._packed(fn.inputs), nodes=tuple(nodes), outputs=outputs)

    def _join(self, values: Sequence[Value], name: str = "") -> Value:
        name = name or base_name(values[0].name)
        one = Value(plural(name), values[0].type)
        self._whole[values[0]], self._one[values[0]] = tuple(values), one
        self._members.update(values)
        self.bundles[one] = len(values)
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

    def _node(self, nodes: Sequence[Node], position: int) -> tuple[Sequence[Node], Node]:
        """(further nodes that it replaces, the new node)."""
        node = nodes[position]
        match node.op:
            case "call":
                outputs = tuple(one for one, _ in self._outputs(node.outputs))
                return (), Node("call", self._packed(node.inputs), outputs, node.attrs, node.loc)
            case "guided":
                return (), self._guided(node)
            case "loop":
                return (), self._loop(node)
        if node.inputs and node.inputs[0] in self._whole:
            return self._each(nodes, position)
        if any(v in self._members for v in node.inputs):
            raise _UsedAlone
        return (), node

    def _outputs(self, outputs: Sequence[Value]) -> list[tuple[Value, int]]:
        """(output, number of values it stands for), with each run of equal ones as one, if it is long enough."""
        found: list[tuple[Value, int]] = []
        for _, run in groupby(outputs, key=lambda value: (value.type, base_name(value.name))):
            values = list(run)
            whole = len(values) >= _LEAST and (not self.last or values[-1] is outputs[-1])
            found += [(self._join(values), len(values))] if whole else [(value, 1) for value in values]
        return found

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
        attrs = {**node.attrs, "kinds": _firsts(kinds, runs), "guides": _firsts(guides, outputs)}
        return Node("guided", (*(v for v, _ in runs), *rest), tuple(one for one, _ in outputs), attrs, node.loc)

    def _loop(self, node: Node) -> Node:
        attrs, body = node.attrs, _once(self.module.functions[node.attrs["body"]])
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

    def _each(self, nodes: Sequence[Node], position: int) -> tuple[Sequence[Node], Node]:
        """The `each` node for an op that is applied to every member, with the same other inputs or with members too."""
        first = nodes[position]
        count = len(self._whole[first.inputs[0]])
        columns = [self._whole.get(v, (v,) * count) for v in first.inputs]
        alone = any(v in self._members and v not in self._whole for v in first.inputs)
        if alone or len(first.outputs) > 1 or any(len(column) != count for column in columns):
            raise _UsedAlone
        run = [first]
        for inputs in list(zip(*columns, strict=True))[1:]:
            alike = (
                node
                for node in nodes[position:]
                if (node.op, node.inputs) == (first.op, inputs) and repr(node.attrs) == repr(first.attrs)
            )
            if (node := next(alike, None)) is None:
                raise _UsedAlone
            run.append(node)
        out = self._join([node.outputs[0] for node in run])
        return run, Node("each", tuple(self._one.get(v, v) for v in first.inputs), (out,), {"nodes": (first,)})


def _chained(nodes: Sequence[Node], outputs: Sequence[Value]) -> list[Node]:
    """The nodes, with an `each` whose only use is the next one joined to it."""
    uses = Counter([*outputs, *(v for node in nodes for v in node.inputs)])
    made: list[Node] = []
    for node in nodes:
        before = next((n for n in reversed(made) if n.outputs == node.inputs[:1]), None) if node.op == "each" else None
        if before is None or before.op != "each" or uses[node.inputs[0]] > 1:
            made.append(node)
            continue
        made.remove(before)
        chain = {"nodes": (*before.attrs["nodes"], *node.attrs["nodes"])}
        made.append(Node("each", (*before.inputs, *node.inputs[1:]), node.outputs, chain))
    return made


def _firsts(kinds: Sequence[str], runs: Sequence[tuple[Value, int]]) -> tuple[str, ...]:
    found, at = [], 0
    for _, count in runs:
        found.append(kinds[at])
        at += count
    return tuple(found)
