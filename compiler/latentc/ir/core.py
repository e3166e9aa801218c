"""The types of the IR, and walks over them.

A `Module` holds functions; a `Function` holds an ordered list of nodes; a `Node` applies an op to values. All are
frozen; a pass builds new ones. Values compare by identity. Weights are a function's params, bound by where it is
called: the call's `name` is the state-dict prefix, so `blocks.3.attn.qkv.weight` is param `qkv.weight` of the
function called as `attn` by the function called as `blocks.3`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from latentc.ir.types import TensorType

# Ops whose attribute `fn` (and for a loop, `body`) names another function of the module.
CALLS = ("call", "guided", "gradient", "jvp")


@dataclass(frozen=True, eq=False, slots=True)
class Value:
    """A tensor of a function: an input, a param or a node's output."""

    name: str
    type: TensorType


@dataclass(frozen=True, slots=True)
class Init:
    """How a parameter is initialised: a key of `latentc.ir.inits.INITS` and its arguments."""

    kind: str
    args: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False, slots=True)
class Recipe:
    """A tensor that a pass computes from weights: a row of `latentc.ir.recipes.RECIPES` applied to `args`.

    Params among `args` are weights of the model, under their names in the function that owns the computed param.
    """

    op: str
    args: tuple[Recipe | Param, ...]
    attrs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False, slots=True)
class Param:
    """A named tensor of a function that comes from outside: from a weights file, an initialiser or calibration.

    `kind` is `weight` (learned, in every weights file), `buffer` (computed from `init` if a file lacks it), `state`
    (updated by training without gradients and in every weights file: running statistics, the vectors of spectral norms)
    or `calibrated` (measured by calibration, stored under this path). A param with a `recipe` is in no file: it is
    computed from weights that are.
    """

    value: Value
    init: Init
    kind: str = "weight"
    recipe: Recipe | None = None

    @property
    def name(self) -> str:
        return self.value.name

    @property
    def type(self) -> TensorType:
        return self.value.type


@dataclass(frozen=True, slots=True)
class Origin:
    """Which emitted class a function is a method of, and the static arguments it was built with."""

    cls: str
    args: Mapping[str, Any]
    method: str = "forward"


@dataclass(frozen=True, eq=False, slots=True)
class Node:
    """outputs = op(inputs) with static attributes; `loc` is the state-dict path or place in the spec it came from."""

    op: str
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    attrs: Mapping[str, Any] = field(default_factory=dict)
    loc: str = ""


@dataclass(frozen=True, eq=False, slots=True, weakref_slot=True)
class Function:
    name: str
    inputs: tuple[Value, ...]
    params: tuple[Param, ...]
    nodes: tuple[Node, ...]
    outputs: tuple[Value, ...]
    origin: Origin | None = None
    doc: str = ""

    def with_(self, **changes: Any) -> Function:
        return replace(self, **changes)

    def values(self) -> Iterator[Value]:
        """Every value that the function defines: inputs, params and outputs of nodes."""
        yield from self.inputs
        yield from (p.value for p in self.params)
        yield from (o for node in self.nodes for o in node.outputs)

    def used(self) -> set[Value]:
        """The values that a node reads or the function returns."""
        return {v for node in self.nodes for v in node.inputs}.union(self.outputs)

    def without_unused_params(self) -> Function:
        used = self.used()
        return self.with_(params=tuple(p for p in self.params if p.value in used))


@dataclass(frozen=True, eq=False, slots=True)
class Module:
    """`functions` by name, callees before callers; `entries` maps public names (`main`, `sample`, `loss`) to them."""

    functions: Mapping[str, Function]
    entries: Mapping[str, str]

    def entry(self, name: str) -> Function:
        return self.functions[self.entries[name]]

    def with_(self, **changes: Any) -> Module:
        return replace(self, **changes)

    def with_functions(self, functions: Mapping[str, Function]) -> Module:
        """The module with other functions; the same object if they are all its own."""
        same = functions.keys() == self.functions.keys() and all(functions[n] is f for n, f in self.functions.items())
        return self if same else self.with_(functions=functions)


class Names:
    """Names that are taken; `fresh` adds one that is not, numbered after `mark` if it has to be: `x`, `x_2`, `x_3`."""

    def __init__(self, taken: Iterable[str] = (), mark: str = "_") -> None:
        self.taken = set(taken)
        self.mark = mark
        self._numbers: dict[str, int] = {}  # last number tried for a name

    def fresh(self, name: str) -> str:
        candidate, n = name, self._numbers.get(name, 1)
        while candidate in self.taken:
            n += 1
            candidate = f"{name}{self.mark}{n}"
        self._numbers[name] = n
        self.taken.add(candidate)
        return candidate


def callees(node: Node) -> tuple[str, ...]:
    """Names of the functions a node refers to."""
    if node.op in CALLS:
        return (node.attrs["fn"],)
    if node.op == "loop":
        return (node.attrs["body"],)
    return ()


def frozen(value: Any) -> Any:
    """A hashable form of an attribute's value, equal for equal values; how sizes are written makes no difference."""
    match value:
        case Mapping():
            return ("map", tuple(sorted((k, frozen(v)) for k, v in value.items())))
        case tuple() | list():
            return ("tuple", tuple(frozen(v) for v in value))
        case np.ndarray():
            return ("array", value.dtype.str, value.shape, np.ascontiguousarray(value).tobytes())
        case bool() | np.bool_():
            return ("bool", bool(value))
        case int() | np.integer():
            return int(value)
        case float() | np.floating():  # as text, so that -0.0 differs from 0.0 and nan equals itself
            return ("float", repr(float(value)))
    return value


def source_params(source: Recipe | Param) -> list[Param]:
    """The model's own weights that a recipe or param is computed from, in order of appearance."""
    if isinstance(source, Param):
        return source_params(source.recipe) if source.recipe else [source]
    return [param for arg in source.args for param in source_params(arg)]


def same_recipe(a: Recipe | Param | None, b: Recipe | Param | None) -> bool:
    """True if two recipes compute the same value from the same weights of a function."""
    if isinstance(a, Param) and isinstance(b, Param):
        return a.name == b.name
    if not isinstance(a, Recipe) or not isinstance(b, Recipe):
        return a is b
    same_op = (a.op, frozen(a.attrs), len(a.args)) == (b.op, frozen(b.attrs), len(b.args))
    return same_op and all(map(same_recipe, a.args, b.args))


def under_prefix(recipe: Recipe | None, prefix: str) -> Recipe | None:
    """The recipe with its params named as the caller sees them, under `prefix`."""
    if recipe is None or not prefix:
        return recipe

    def prefixed(arg: Recipe | Param) -> Recipe | Param:
        if isinstance(arg, Recipe):
            return replace(arg, args=tuple(map(prefixed, arg.args)))
        value = Value(join(prefix, arg.name), arg.type)
        return replace(arg, value=value, recipe=under_prefix(arg.recipe, prefix))

    return replace(recipe, args=tuple(map(prefixed, recipe.args)))


def join(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix and name else prefix or name


def parameters(module: Module, function: str, prefix: str = "") -> dict[str, Param]:
    """{state-dict path: Param} of a function and everything it calls, in order of first use."""
    found: dict[str, Param] = {}
    fn = module.functions[function]
    for param in fn.params:
        found[join(prefix, param.name)] = param
    for node in fn.nodes:
        for callee in callees(node):
            found.update(parameters(module, callee, join(prefix, node.attrs.get("name", ""))))
    return found


def own_parameters(module: Module, function: str) -> dict[str, Param]:
    """{state-dict path: Param} of the model's own weights that a function's params are computed from."""
    return {
        path.removesuffix(param.name) + own.name: own
        for path, param in parameters(module, function).items()
        for own in source_params(param)
    }


def reachable(module: Module, roots: tuple[str, ...] | None = None) -> list[str]:
    """Function names the roots (default: the entries) reach, callees before callers."""
    order: dict[str, None] = {}

    def visit(name: str) -> None:
        if name in order:
            return
        for node in module.functions[name].nodes:
            for callee in callees(node):
                visit(callee)
        order[name] = None

    for root in roots if roots is not None else tuple(module.entries.values()):
        visit(root)
    return list(order)


def prune(module: Module) -> Module:
    """Drops functions that no entry reaches; returns the module unchanged if there are none."""
    return module if len(reachable(module)) == len(module.functions) else in_order(module)


def in_order(module: Module) -> Module:
    """The module with only the functions that its entries reach, callees before callers."""
    return module.with_(functions={name: module.functions[name] for name in reachable(module)})


def only_entry(module: Module, entry: str) -> Module:
    """The module with only this entry, and the functions it reaches."""
    return prune(module.with_(entries={entry: module.entries[entry]}))


def count(module: Module, function: str, op: str, outputs: Collection[int] | None = None) -> int:
    """Number of nodes of an op in a function and what it calls, counted per call; a loop's body counts once.

    Only those that the function's outputs depend on, or those of the given indices.
    """
    fn = module.functions[function]
    wanted = fn.outputs if outputs is None else [fn.outputs[i] for i in outputs]
    nodes = live(fn.nodes, wanted)
    used, total = {v for node in nodes for v in node.inputs}.union(wanted), 0
    for node in nodes:
        needed = [i for i, o in enumerate(node.outputs) if o in used] if node.op == "call" else None
        total += (node.op == op) + sum(count(module, callee, op, needed) for callee in callees(node))
    return total


def networks_called(module: Module, function: str) -> list[str]:
    """Names of the networks that a free function calls, itself or through other free functions."""
    found: dict[str, None] = {}
    for node in module.functions[function].nodes:
        for callee in callees(node):
            if module.functions[callee].origin is not None:
                found[node.attrs["name"]] = None
            else:
                found.update(dict.fromkeys(networks_called(module, callee)))
    return list(found)


def live(nodes: Sequence[Node], outputs: Iterable[Value]) -> tuple[Node, ...]:
    """The nodes that the outputs depend on, in order."""
    used, kept = set(outputs), []
    for node in reversed(nodes):
        if any(o in used for o in node.outputs):
            kept.append(node)
            used.update(node.inputs)
    return tuple(reversed(kept))


def makers(nodes: Iterable[Node]) -> dict[Value, Node]:
    """{value: the node that computes it}"""
    return {o: node for node in nodes for o in node.outputs}


class Uses:
    """The nodes that compute and use each value of a function."""

    def __init__(self, fn: Function) -> None:
        self.fn = fn
        self.made_by = makers(fn.nodes)
        self.users: dict[Value, list[Node]] = {}
        for node in fn.nodes:
            for value in dict.fromkeys(node.inputs):
                self.users.setdefault(value, []).append(node)
        self.outputs = set(fn.outputs)
        self.params = {p.value: p for p in fn.params}

    def number(self, value: Value) -> float | None:
        """The one element of a constant, or None."""
        node = self.made_by.get(value)
        if node is None or node.op != "constant" or np.size(node.attrs["value"]) != 1:
            return None
        return float(np.asarray(node.attrs["value"]).reshape(()))

    def count(self, value: Value) -> int:
        """How often a value is used, also as an output."""
        return sum(node.inputs.count(value) for node in self.users.get(value, ())) + self.fn.outputs.count(value)


def walk(module: Module) -> Iterator[tuple[Function, Node]]:
    for fn in module.functions.values():
        for node in fn.nodes:
            yield fn, node
