"""Checks a module: SSA, types, call signatures, shared weights, and the ops that are forbidden at a stage.

Runs after every pass. An error names the function and shows the nodes around the fault. Each distinct function is
checked once, however often it is called, and not again by a later pass that changes neither it nor what it calls.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from weakref import WeakKeyDictionary

from latentc.ir.core import Function, Module, Node, Param, Value, callees, frozen, parameters
from latentc.ir.ops import CONTROL, OPS, OpError
from latentc.ir.recipes import recipe_type
from latentc.ir.text import node_text
from latentc.ir.types import NUMPY, TensorType

_TRAIN_ONLY = frozenset(name for name, row in OPS.items() if row.train_only)
# stage -> ops that may not appear in it
FORBIDDEN: dict[str, frozenset[str]] = {
    "train": frozenset(),
    "inference": _TRAIN_ONLY | {"gradient", "jvp"},
    "expanded": _TRAIN_ONLY | {"gradient", "jvp", "guided"},
    "inlined": _TRAIN_ONLY | {"gradient", "jvp", "guided", "call"},
}
_NAME = re.compile(r"[\w.#\-]+")
_SOUND: WeakKeyDictionary[Function, tuple[Function, ...]] = WeakKeyDictionary()
"""Functions found well formed at some stage, and those that they called."""


class VerifyError(Exception):
    """A module that is not well formed; `function` and `detail` say where and why."""

    def __init__(self, function: str, detail: str, context: str = "") -> None:
        self.function, self.detail, self.context = function, detail, context
        super().__init__(f"in {function}: {detail}" + (f"\n{context}" if context else ""))


def _around(fn: Function, index: int) -> str:
    lines = []
    for i in range(max(0, index - 2), min(len(fn.nodes), index + 3)):
        lines.append(("  > " if i == index else "    ") + node_text(fn.nodes[i]))
    return "\n".join(lines)


# (callee, operand types) -> output types of the calls of one function: equal blocks have equal calls
_Calls = dict[tuple[str, tuple[TensorType, ...]], Sequence[TensorType]]


def _node_types(module: Module, node: Node, calls: _Calls) -> Sequence[TensorType]:
    actuals = [v.type for v in node.inputs]
    if node.op not in CONTROL:
        return OPS[node.op].types(actuals, node.attrs)
    callee = module.functions[callees(node)[0]]
    if node.op != "call":
        return CONTROL[node.op].types(callee, actuals, node.attrs)
    key = (callee.name, tuple(actuals))
    if key not in calls:
        calls[key] = CONTROL["call"].types(callee, actuals, node.attrs)
    return calls[key]


def _node_fault(module: Module, node: Node, calls: _Calls) -> str | None:
    """The fault of a node on its own, at any stage, or None."""
    if node.op not in OPS and node.op not in CONTROL:
        return f"unknown op {node.op}"
    for name, kind in (CONTROL[node.op].attrs if node.op in CONTROL else {}).items():
        if not isinstance(node.attrs.get(name, ...), kind):
            return f"{node.op}: attribute {name} is {node.attrs.get(name, 'missing')!r}"
    for callee in callees(node):
        if callee not in module.functions:
            return f"{node.op} names {callee}, which is not in the module"
    try:
        types = _node_types(module, node, calls)
    except OpError as error:
        return f"{node.op}: {error}"
    found = [o.type for o in node.outputs]
    if list(types) != found:
        return f"{node.op} gives {', '.join(map(str, types))}, not {', '.join(map(str, found))}"
    return None


def _verify_stage(fn: Function, stage: str) -> None:
    for index, node in enumerate(fn.nodes):
        if node.op in FORBIDDEN[stage]:
            raise VerifyError(fn.name, f"{node.op} may not appear at stage {stage}", _around(fn, index))


def _verify_function(module: Module, fn: Function, called: tuple[Function, ...]) -> None:
    if _SOUND.get(fn) == called:  # the same objects: functions compare by identity
        return
    known: set[Value] = set()
    names: set[str] = set()
    calls: _Calls = {}

    def define(value: Value, where: str, index: int | None = None) -> None:
        fault = ""
        if value.name in names:
            fault = f"{where} defines {value.name} a second time"
        elif not _NAME.fullmatch(value.name) or value.type.dtype not in NUMPY:
            fault = f"{where} defines {value.name!r}: {value.type}, which cannot be written"
        if fault:
            raise VerifyError(fn.name, fault, "" if index is None else _around(fn, index))
        names.add(value.name)
        known.add(value)

    for value in (*fn.inputs, *(p.value for p in fn.params)):
        define(value, "the signature")
    for param in fn.params:
        if wrong := _recipe_fault(param):
            raise VerifyError(fn.name, wrong)
    if fn.origin and not (fn.origin.cls.isidentifier() and fn.origin.method.isidentifier()):
        raise VerifyError(fn.name, f"origin {fn.origin.cls}.{fn.origin.method} is not a method of a class")
    for index, node in enumerate(fn.nodes):
        for value in node.inputs:
            if value not in known:
                raise VerifyError(fn.name, f"{value.name} is used before it is defined", _around(fn, index))
        if fault := _node_fault(module, node, calls):
            raise VerifyError(fn.name, fault, _around(fn, index))
        for value in node.outputs:
            define(value, node.op, index)
    for value in fn.outputs:
        if value not in known:
            raise VerifyError(fn.name, f"output {value.name} is not defined", _around(fn, len(fn.nodes)))
    _SOUND[fn] = called


def _recipe_fault(param: Param) -> str:
    """The fault of a parameter's recipe, or ""; the parameter's float dtype may differ from the recipe's."""
    if param.recipe is None:
        return ""
    try:
        type = recipe_type(param.recipe)
    except (OpError, LookupError, TypeError, ValueError) as error:
        return f"the recipe of {param.name} is ill-typed: {error}"
    same = type.shape == param.type.shape and (type == param.type or (type.is_float and param.type.is_float))
    return "" if same else f"{param.name} is {param.type}; its recipe computes {type}"


def _owners(module: Module) -> dict[Function, Hashable]:
    """The owner of each function's weights: its class with its static arguments, or the function itself.

    Two classes may have one name and arguments; the number after a method's name then tells them apart, if only methods
    of one are left of each kind. A method that is there twice is of two classes, and which belong together is unknown.
    """
    found = {
        fn: (fn.origin.cls, frozen(fn.origin.args), fn.name.partition("#")[2])
        for fn in module.functions.values()
        if fn.origin
    }
    count = Counter((owner, fn.origin.method) for fn, owner in found.items() if fn.origin)
    twice = {owner for (owner, _), number in count.items() if number > 1}
    return {fn: fn.name if found.get(fn) in {None, *twice} else found[fn] for fn in module.functions.values()}


def _bindings(module: Module, fn: Function) -> tuple[dict[str, TensorType], dict[str, list[Function]]]:
    """(types of a function's own weights, functions it calls by name), both including those of its loops' bodies."""
    own, calls = {p.name: p.type for p in fn.params}, dict[str, list[Function]]()
    for node in fn.nodes:
        for callee in map(module.functions.__getitem__, callees(node)):
            if name := node.attrs.get("name", ""):
                calls.setdefault(name, []).append(callee)
                continue
            inner_own, inner_calls = _bindings(module, callee)
            _agree(fn.name, own, inner_own, f"in {callee.name}")
            own |= inner_own
            for name, functions in inner_calls.items():
                calls.setdefault(name, []).extend(functions)
    return own, calls


def _agree(where: str, known: Mapping[str, TensorType], more: Mapping[str, TensorType], place: str) -> None:
    for path, type in more.items():
        if known.get(path, type) != type:
            raise VerifyError(where, f"weight {path} is {known[path]} and {type} {place}")


def _verify_sharing(module: Module) -> None:
    """Checks that a state-dict path has one type, among the methods of a class and among the calls under one name."""
    methods: dict[Hashable, tuple[dict[str, TensorType], dict[str, list[Function]]]] = {}
    owner = _owners(module)
    for fn in module.functions.values():
        own, calls = _bindings(module, fn)
        if fn.origin:
            known_own, known_calls = methods.setdefault(owner[fn], ({}, {}))
            _agree(fn.name, known_own, own, "in another method")
            known_own |= own
            for name, functions in calls.items():
                functions.extend(known_calls.get(name, ()))
                known_calls[name] = functions
        # A dotted name may be that of a weight of a call: `attn.qkv.weight` is `qkv.weight` of the call `attn`.
        dotted = {path[:i] for path in (*own, *calls) for i, c in enumerate(path) if c == "."}
        if not dotted.isdisjoint(calls):
            paths = dict(own)
            for name, callee in ((name, f) for name, functions in calls.items() for f in functions):
                found = {path: p.type for path, p in parameters(module, callee.name, name).items()}
                _agree(fn.name, paths, found, f"in {callee.name}")
                paths |= found
        for name, functions in calls.items():
            if len({owner[f] for f in functions}) == 1:
                continue  # methods of one class, compared above
            known: dict[str, TensorType] = {}
            for callee in dict.fromkeys(functions):
                found = {path: p.type for path, p in parameters(module, callee.name, name).items()}
                _agree(fn.name, known, found, f"in {callee.name}")
                known |= found


def verify(module: Module, stage: str = "train") -> Module:
    """Returns the module if it is well formed at `stage`; raises VerifyError otherwise."""
    calls: dict[str, dict[str, Function]] = {}
    for key, fn in module.functions.items():
        if key != fn.name:
            raise VerifyError(fn.name, f"is filed under {key!r}")
        named = [n.attrs.get("body" if n.op == "loop" else "fn") for n in fn.nodes if n.op in CONTROL]
        known = [callee for callee in named if isinstance(callee, str) and callee in module.functions]
        calls[key] = {callee: module.functions[callee] for callee in known}
    try:
        TopologicalSorter(calls).prepare()
    except CycleError as error:
        around = error.args[1][::-1]  # from callees to callers, and back
        raise VerifyError(around[0], f"functions call each other in a circle: {' -> '.join(around)}") from None
    for name, function in module.entries.items():
        if not _NAME.fullmatch(name):
            raise VerifyError(name, "is not a name of an entry")
        if function not in module.functions:
            raise VerifyError(name, f"entry names {function}, which is not in the module")
    for key, fn in module.functions.items():
        _verify_stage(fn, stage)
        _verify_function(module, fn, tuple(calls[key].values()))
    _verify_sharing(module)
    return module
