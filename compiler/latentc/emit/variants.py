"""Functions of one class that differ in optional parts, such as a projected shortcut or attention, as one function.

Their nodes are aligned; where only some of the functions have nodes, the joined function has a node `branch`. Each of
its arms is a condition and the nodes under it: a flag of the constructor, or that an optional member is there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from latentc.emit.repeats import PURE_EXCEPT, without_duplicates
from latentc.ir.core import CALLS, Function, Init, Node, Origin, Param, Value, frozen, live
from latentc.ir.sizes import evaluate, is_size, signature
from latentc.ir.types import Dim, Named, TensorType

MOST_BRANCHES = 4
"""A function with more branches reads worse than the functions it joins."""


@dataclass(frozen=True)
class Condition:
    """When an arm is taken: if a flag is set, or if a member is there (`member`); `negated` if not; "" for `else`."""

    name: str = ""
    member: bool = False
    negated: bool = False


@dataclass(frozen=True)
class Arm:
    """Nodes under a condition; `made` are its values for the outputs of the branch, None for what it leaves."""

    condition: Condition
    nodes: tuple[Node, ...]
    made: tuple[Value | None, ...]


@dataclass(frozen=True)
class Joined:
    """One function for several.

    `values` {function: its constructor arguments}; those that only some have are `optional` {name: type}. `members`
    {name: constructor argument on which a member depends}. Only some functions have the inputs after the first
    `required`. `unshown`: values whose shape is not always the same.
    """

    function: Function
    sizes: Mapping[str, int]
    values: Mapping[str, Mapping[str, int]]
    optional: Mapping[str, str]
    members: Mapping[str, str]
    unshown: frozenset[Value]
    required: int


class _Unlike(Exception):
    """Functions that cannot be joined."""


@dataclass
class _Entry:
    """A node of the joined function: the corresponding node of each function that has it, by the function's number."""

    key: Any
    nodes: dict[int, Node] = field(default_factory=dict)

    @property
    def present(self) -> frozenset[int]:
        return frozenset(self.nodes)


def flattened(fn: Function) -> Function:
    """The function with the nodes of all arms in place of its branches."""
    if not any(node.op == "branch" for node in fn.nodes):
        return fn
    return fn.with_(nodes=tuple(inner for node in fn.nodes for inner in inlined(node)))


def inlined(node: Node) -> Iterator[Node]:
    """A node, or the nodes of a branch's arms."""
    if node.op != "branch":
        yield node
        return
    for arm in node.attrs["arms"]:
        yield from arm.nodes


def join(functions: Sequence[Function], called: Callable[[str], Any]) -> Joined | None:
    """The functions as one; None if they are equal, or differ in more than optional parts that have names.

    `called(function)` identifies the class and method of a call.
    """
    try:
        joined = _Joiner(functions, called).joined()
    except _Unlike:
        return None
    return joined if any(node.op == "branch" for node in joined.function.nodes) else None


class _Joiner:
    def __init__(self, functions: Sequence[Function], called: Callable[[str], Any]) -> None:
        first = functions[0]
        assert first.origin is not None
        self.functions, self.called, self.everyone = functions, called, frozenset(range(len(functions)))
        self.inputs = max((fn.inputs for fn in functions), key=len)
        for fn in functions:
            if any(not _alike(one, other) for one, other in zip(fn.inputs, self.inputs, strict=False)):
                raise _Unlike
        if any(len(fn.outputs) != 1 or fn.doc != first.doc for fn in functions):
            raise _Unlike
        self.sizes: dict[str, int] = {}
        for fn in functions:
            for name, value in _arguments(fn).items():
                if is_size(value):
                    self.sizes.setdefault(name, int(value))
        labels = {d.expr: int(d) for v in self.inputs for d in v.type.shape if isinstance(d, Named)}
        self.known = {**labels, **self.sizes}
        self.params: dict[str, Param] = {}
        self.unshown: set[Value] = set()
        self.has = self._members()

    # ---- parts and their names

    def _members(self) -> dict[str, frozenset[int]]:
        """The functions that have each member: a call or a param, by the first part of its path."""
        paths: dict[str, set[int]] = {}
        for v, fn in enumerate(self.functions):
            names = [p.name for p in fn.params]
            names += [node.attrs["name"] for node in fn.nodes if node.op in CALLS]
            for name in names:
                paths.setdefault(name, set()).add(v)
        found: dict[str, frozenset[int]] = {}
        for path, present in paths.items():
            if found.setdefault(path.split(".")[0], frozenset(present)) != present:
                raise _Unlike
        return found

    def _conditions(
        self,
    ) -> tuple[dict[frozenset[int], Condition], dict[str, str], dict[str, str], dict[str, set[int]]]:
        """(conditions by the functions they hold for, optional arguments, members that need one, flags)."""
        arguments = [_arguments(fn) for fn in self.functions]
        optional: dict[str, str] = {}
        found: dict[frozenset[int], Condition] = {}
        by_presence: dict[frozenset[int], str] = {}
        flags: dict[str, set[int]] = {}
        for name in dict.fromkeys(name for given in arguments for name in given):
            present = frozenset(v for v, given in enumerate(arguments) if name in given)
            if any(isinstance(given.get(name), bool) for given in arguments):
                flags[name] = {v for v, given in enumerate(arguments) if given.get(name)}
                if flags[name] != self.everyone:
                    found.setdefault(frozenset(flags[name]), Condition(name))
                    by_presence.setdefault(frozenset(flags[name]), name)
                    optional[name] = "bool"
            elif name in self.has and {int(given.get(name, -1)) for given in arguments} == {0, 1}:
                flags[name] = {v for v, given in enumerate(arguments) if given[name]}
                by_presence.setdefault(frozenset(flags[name]), name)
                optional[name] = "bool"
                del self.sizes[name]
            elif present != self.everyone:
                optional[name] = "int"
                by_presence.setdefault(present, name)
        members: dict[str, str] = {}
        for name, present in self.has.items():
            if present == self.everyone:
                continue
            found[present] = Condition(name, member=True)
            if present not in by_presence:
                if name in self.sizes or name in optional:
                    raise _Unlike
                by_presence[present], optional[name], flags[name] = name, "bool", set(present)
            members[name] = by_presence[present]
        for present, condition in list(found.items()):
            found.setdefault(self.everyone - present, replace(condition, negated=True))
        return found, optional, members, flags

    # ---- nodes

    def _entries(self) -> list[_Entry]:
        entries: list[_Entry] = []
        self.outputs: list[Value] = []
        for v, fn in enumerate(self.functions):
            nodes, same = without_duplicates(fn.nodes)
            self.outputs.append(same.get(fn.outputs[0], fn.outputs[0]))
            names: dict[Value, Any] = {p.value: p.name for p in fn.params}
            names |= {n.outputs[0]: _written(n.attrs["value"]) for n in nodes if n.op == "constant"}
            own = [_Entry(self._key(node, names), {v: node}) for node in live(nodes, [self.outputs[-1]])]
            entries = own if v == 0 else _aligned(entries, own)
        return entries

    def _key(self, node: Node, names: Mapping[Value, Any]) -> Any:
        """Equal for nodes that compute the same of the same params and constants; other operands do not count."""
        attrs = {k: _written(value) for k, value in node.attrs.items() if k != "fn"}
        callee = self.called(node.attrs["fn"]) if "fn" in node.attrs else None
        return node.op, tuple(sorted(attrs.items())), callee, tuple(names.get(v) for v in node.inputs)

    def joined(self) -> Joined:
        if any(node.op == "loop" for fn in self.functions for node in fn.nodes):
            raise _Unlike
        conditions, optional, members, flags = self._conditions()
        entries = self._entries()
        first = self.functions[0]
        longest = next(fn for fn in self.functions if fn.inputs is self.inputs)
        inputs = tuple(Value(v.name, self._type(v.type, longest)) for v in self.inputs)
        # Values of the joined function that equal a value of function v there, the latest last.
        equal: list[dict[Value, list[Value]]] = []
        for fn in self.functions:
            equal.append({own: [new] for own, new in zip(fn.inputs, inputs, strict=False)})
            for param in fn.params:
                known = self.params.get(param.name) or self._param(param, fn)
                new = self.params.setdefault(param.name, known)
                if _described(new) != _described(self._param(param, fn)):
                    raise _Unlike
                equal[-1][param.value] = [new.value]
        nodes = [self._node(entry, equal) for entry in entries if entry.key[0] == "constant"]
        rest = [entry for entry in entries if entry.key[0] != "constant"]
        while rest:
            if rest[0].present == self.everyone:
                nodes.append(self._node(rest.pop(0), equal))
                continue
            arms, rest = _arms(rest, self.everyone, conditions)
            nodes.append(self._branch(arms, rest, equal, conditions))
        output = self._common(dict(enumerate(self.outputs)), equal)
        nodes = _gathered(nodes, output)
        if sum(node.op == "branch" for node in nodes) > MOST_BRANCHES:
            raise _Unlike
        arguments = {name: Named(size, name) for name, size in self.sizes.items()}
        origin = Origin(first.origin.cls, arguments, first.origin.method) if first.origin else None
        params = tuple(self.params.values())
        function = Function(first.name, inputs, params, tuple(nodes), (output,), origin, first.doc)
        optional = dict(sorted(optional.items(), key=lambda item: item[1] == "bool"))
        required = min(len(fn.inputs) for fn in self.functions)
        values: dict[str, Mapping[str, int]] = {}
        for v, fn in enumerate(self.functions):
            sizes = {n: int(value) for n, value in _arguments(fn).items() if is_size(value) and n not in flags}
            values[fn.name] = sizes | {name: True for name, present in flags.items() if v in present}
        return Joined(function, self.sizes, values, optional, members, frozenset(self.unshown), required)

    def _node(self, entry: _Entry, equal: list[dict[Value, list[Value]]]) -> Node:
        """The node of the joined function for an entry; its outputs are entered in `equal`."""
        (v, node), *_ = entry.nodes.items()
        count = len(node.inputs)
        if any(len(other.inputs) != count for other in entry.nodes.values()):
            raise _Unlike
        operands = tuple(self._common({u: n.inputs[i] for u, n in entry.nodes.items()}, equal) for i in range(count))
        outputs = []
        for i, value in enumerate(node.outputs):
            new = Value(value.name, self._type(value.type, self.functions[v]))
            others = [n.outputs[i].type for n in entry.nodes.values()]
            if len({signature([other]) for other in others}) > 1:
                self.unshown.add(new)
            outputs.append(new)
            for u, other in entry.nodes.items():
                equal[u][other.outputs[i]] = [new]
        attrs = {key: self._valued(value, self.functions[v]) for key, value in node.attrs.items()}
        return Node(node.op, operands, tuple(outputs), attrs, node.loc)

    @staticmethod
    def _common(own: Mapping[int, Value], equal: list[dict[Value, list[Value]]]) -> Value:
        """The latest value of the joined function that equals a value in each function."""
        (v, value), *others = own.items()
        for candidate in reversed(equal[v].get(value, [])):
            if all(candidate in equal[u].get(other, ()) for u, other in others):
                return candidate
        raise _Unlike

    def _branch(
        self,
        arms: list[list[_Entry]],
        rest: Sequence[_Entry],
        equal: list[dict[Value, list[Value]]],
        conditions: Mapping[frozenset[int], Condition],
    ) -> Node:
        """The branch for entries that only some functions have; its outputs are entered in `equal`."""
        order = list(conditions)
        arms = sorted(arms, key=lambda arm: order.index(arm[0].present) if arm[0].present in order else len(order))
        presents = [arm[0].present for arm in arms]
        whole = frozenset().union(*presents) == self.everyone
        if any(present not in conditions for present in (presents[:-1] if whole else presents)):
            raise _Unlike
        bodies = [[self._node(entry, equal) for entry in arm] for arm in arms]
        owner = {v: k for k, present in enumerate(presents) for v in present}
        made = {(v, o) for k, arm in enumerate(arms) for e in arm for v, n in e.nodes.items() for o in n.outputs}
        groups: list[tuple[dict[int, Value], dict[int, Value]]] = []  # (value made by each arm, value of each other)
        readings = [{v: n.inputs[i] for v, n in e.nodes.items()} for e in rest for i in range(_arity(e))]
        for reading in [*readings, dict(enumerate(self.outputs))]:
            by_arm = {owner[v]: equal[v][value][0] for v, value in reading.items() if (v, value) in made}
            if not by_arm:
                continue
            others = {v: value for v, value in reading.items() if v not in owner and value in equal[v]}
            for v, value in reading.items():
                if v in owner and (v, value) not in made and value in equal[v]:
                    raise _Unlike  # an arm that leaves the value as it was
            found = [g for g in groups if any(g[0].get(k) is value for k, value in by_arm.items())]
            for group in found[1:]:
                by_arm, others = group[0] | by_arm, group[1] | others
                groups.remove(group)
            if found:
                found[0][0].update(by_arm)
                found[0][1].update(others)
            else:
                groups.append((by_arm, others))
        outputs, firsts, made_by = [], [], []
        for by_arm, others in groups:
            template = next(iter(by_arm.values()))
            before = self._common(others, equal) if others else None
            result = Value((before or template).name, (before or template).type)
            if len({signature([value.type]) for value in (*by_arm.values(), *([before] if before else []))}) > 1:
                self.unshown.add(result)
            outputs.append(result)
            firsts.append(before)
            made_by.append(by_arm)
            for v, values in enumerate(equal):
                # In a function without these nodes the result is the value from before.
                wanted = by_arm.get(owner[v], before) if v in owner else before
                for known in values.values():
                    if wanted is not None and wanted in known and result not in known:
                        known.append(result)
        last = len(arms) - 1
        made_arms = tuple(
            Arm(
                Condition() if whole and k == last and k else conditions[presents[k]],
                tuple(body),
                tuple(by_arm.get(k) for by_arm in made_by),
            )
            for k, body in enumerate(bodies)
        )
        inside = {value for body in bodies for node in body for value in node.outputs}
        params = {p.value for p in self.params.values()}
        read = [v for body in bodies for node in body for v in node.inputs if v not in inside and v not in params]
        operands = tuple(dict.fromkeys([*(v for v in firsts if v is not None), *read]))
        return Node("branch", operands, tuple(outputs), {"arms": made_arms, "firsts": tuple(firsts)})

    # ---- sizes: all functions are written at the sizes of the first that has them

    def _valued(self, value: Any, fn: Function) -> Any:
        match value:
            case Named():
                return self._dim(value, fn)
            case tuple():
                return tuple(self._valued(v, fn) for v in value)
            case list():
                return [self._valued(v, fn) for v in value]
            case dict():
                return {k: self._valued(v, fn) for k, v in value.items()}
        return value

    def _dim(self, dim: Named, fn: Function) -> int:
        own = {d.expr: int(d) for v in fn.inputs for d in v.type.shape if isinstance(d, Named)} | _arguments(fn)
        for expr in filter(None, (dim.expr, dim.meaning)):
            try:
                if evaluate(expr, own) == dim:
                    return Named(evaluate(expr, self.known), dim.expr, dim.meaning)
            except KeyError:
                continue
        return dim

    def _type(self, type: TensorType, fn: Function) -> TensorType:
        dims: list[Dim] = [self._dim(d, fn) if isinstance(d, Named) else d for d in type.shape]
        return type.with_shape(dims)

    def _param(self, param: Param, fn: Function) -> Param:
        init = Init(param.init.kind, self._valued(dict(param.init.args), fn))
        return Param(Value(param.name, self._type(param.type, fn)), init, param.kind, param.recipe)


def _alike(one: Value, other: Value) -> bool:
    return (one.name, one.type.dtype, one.type.rank) == (other.name, other.type.dtype, other.type.rank)


def _arguments(fn: Function) -> dict[str, Any]:
    return dict(fn.origin.args) if fn.origin else {}


def _arity(entry: _Entry) -> int:
    return min(len(node.inputs) for node in entry.nodes.values())


def _described(param: Param) -> Any:
    return param.kind, signature([param.type]), param.type, param.init.kind, _written(param.init.args), param.recipe


def _written(value: Any) -> Any:
    """A hashable form of an attribute that differs if it is written differently."""
    match value:
        case Named():
            return ("size", value.expr, value.meaning)
        case tuple() | list():
            return tuple(_written(v) for v in value)
        case Mapping():
            return tuple(sorted((k, _written(v)) for k, v in value.items()))
        case np.ndarray():
            return frozen(value)
    return (type(value).__name__, frozen(value))


def _gathered(nodes: Sequence[Node], output: Value) -> list[Node]:
    """The nodes with each branch joined to an earlier one of the same conditions, if it can be computed there."""
    result: list[Node] = []
    for node in nodes:
        earlier = next((i for i, other in enumerate(result) if _same_conditions(other, node)), None)
        both = None if earlier is None else _together(result[earlier], node, result[earlier + 1 :])
        if earlier is None or both is None:
            result.append(node)
        else:
            result[earlier] = both
    used = {output}.union(*(node.inputs for node in result))
    return [_without_unused(node, used) if node.op == "branch" else node for node in result]


def _together(one: Node, other: Node, between: Sequence[Node]) -> Node | None:
    """Two branches of the same conditions as one in the place of the first."""
    made = {value for node in between for value in node.outputs}
    read = {value for node in between for value in node.inputs}
    firsts = {value for value in other.attrs["firsts"] if value is not None}
    pure = all(inner.op not in PURE_EXCEPT for inner in inlined(other))
    if not pure or made & set(other.inputs) or firsts & (read | set(one.outputs)):
        return None
    arms = []
    for own, more in zip(one.attrs["arms"], other.attrs["arms"], strict=True):
        # In an arm, an output of the first branch is what that arm makes of it.
        same = {out: v or first for out, v, first in zip(one.outputs, own.made, one.attrs["firsts"], strict=True)}
        if any(v in same and same[v] is None for node in more.nodes for v in node.inputs):
            return None
        nodes = [replace(node, inputs=tuple(same.get(v, v) for v in node.inputs)) for node in more.nodes]
        arms.append(Arm(own.condition, (*own.nodes, *nodes), (*own.made, *more.made)))
    inputs = dict.fromkeys([*one.inputs, *(v for v in other.inputs if v not in one.outputs)])
    attrs = {"arms": tuple(arms), "firsts": (*one.attrs["firsts"], *other.attrs["firsts"])}
    return Node("branch", tuple(inputs), (*one.outputs, *other.outputs), attrs)


def _without_unused(node: Node, used: set[Value]) -> Node:
    """A branch with the outputs that are used; each has a value, whichever arm is taken."""
    kept = [i for i, out in enumerate(node.outputs) if out in used]
    arms, firsts = node.attrs["arms"], [node.attrs["firsts"][i] for i in kept]
    whole = not arms[-1].condition.name
    for i, first in zip(kept, firsts, strict=True):
        if first is None and (not whole or any(arm.made[i] is None for arm in arms)):
            raise _Unlike
    arms = tuple(replace(arm, made=tuple(arm.made[i] for i in kept)) for arm in arms)
    outputs = tuple(node.outputs[i] for i in kept)
    return replace(node, outputs=outputs, attrs={"arms": arms, "firsts": tuple(firsts)})


def _same_conditions(one: Node, other: Node) -> bool:
    if one.op != "branch" or other.op != "branch":
        return False
    return [arm.condition for arm in one.attrs["arms"]] == [arm.condition for arm in other.attrs["arms"]]


def _arms(
    entries: Sequence[_Entry], everyone: frozenset[int], conditions: Mapping[frozenset[int], Condition]
) -> tuple[list[list[_Entry]], list[_Entry]]:
    """(arms of the branch that begins here, the entries after it).

    An arm is what the same functions have; no function has two. Conditions of members and flags form branches of their
    own: nodes of other functions may stand between the arms.
    """
    arms: list[list[_Entry]] = []
    taken, passed, left = frozenset[int](), frozenset[int](), list[_Entry]()
    kind = _of_member(conditions.get(entries[0].present))
    for position, entry in enumerate(entries):
        own = entry.present
        if own == everyone:
            return arms, [*left, *entries[position:]]
        known = next((arm for arm in arms if arm[0].present == own), None)
        if own & passed or _of_member(conditions.get(own)) != kind or (known is None and own & taken):
            left.append(entry)
            passed |= own
        elif known is not None:
            known.append(entry)
        else:
            arms.append([entry])
            taken |= own
    return arms, left


def _of_member(condition: Condition | None) -> bool:
    return condition is not None and condition.member


def _aligned(one: Sequence[_Entry], other: Sequence[_Entry]) -> list[_Entry]:
    """Both lists as one in which the longest common sequence of keys appears once."""
    rows, columns = len(one), len(other)
    common = [[0] * (columns + 1) for _ in range(rows + 1)]
    for i in range(rows - 1, -1, -1):
        for j in range(columns - 1, -1, -1):
            same = one[i].key == other[j].key
            common[i][j] = common[i + 1][j + 1] + 1 if same else max(common[i + 1][j], common[i][j + 1])
    result, i, j = [], 0, 0
    while i < rows or j < columns:
        if i < rows and j < columns and one[i].key == other[j].key:
            result.append(_Entry(one[i].key, {**one[i].nodes, **other[j].nodes}))
            i, j = i + 1, j + 1
        elif i < rows and (j == columns or common[i + 1][j] >= common[i][j + 1]):
            result.append(one[i])
            i += 1
        else:
            result.append(other[j])
            j += 1
    return result
