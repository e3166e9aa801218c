"""The four types of the IR, and walks over them.

A `Module` holds functions; a `Function` holds an ordered list of nodes; a `Node` applies an op to values. All are
frozen; a pass builds new ones. Values compare by identity. Weights are a function's params, bound by where it is
called: the call's `name` is the state-dict prefix, so `blocks.3.attn.qkv.weight` is param `qkv.weight` of the
function called as `attn` by the function called as `blocks.3`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
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

    Params among `args` are weights of the model, by their names in the function whose param this is the recipe of.
    """

    op: str
    args: tuple[Recipe | Param, ...]
    attrs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False, slots=True)
class Param:
    """A weight (learned, in every weights file), a buffer (computed from `init` where a file lacks it), `state` (what
    training moves by itself, in every weights file: running statistics, the vectors of spectral norms), or `calibrated`
    (measured: what calibration gives under this path).

    With a `recipe` no file holds it: it is made of weights that one does.
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
    """outputs = op(inputs) with static attrs; `loc` is the state-dict path or spec place it came from."""

    op: str
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    attrs: Mapping[str, Any] = field(default_factory=dict)
    loc: str = ""


@dataclass(frozen=True, eq=False, slots=True)
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


@dataclass(frozen=True, eq=False, slots=True)
class Module:
    """`functions` by name, callees before callers; `entries` maps a public name (`main`, `sample`, `loss`) to one."""

    functions: Mapping[str, Function]
    entries: Mapping[str, str]

    def entry(self, name: str) -> Function:
        return self.functions[self.entries[name]]

    def with_(self, **changes: Any) -> Module:
        return replace(self, **changes)


def callees(node: Node) -> tuple[str, ...]:
    """Names of the functions a node refers to."""
    if node.op in CALLS:
        return (node.attrs["fn"],)
    if node.op == "loop":
        return (node.attrs["body"],)
    return ()


def frozen(value: Any) -> Any:
    """A hashable form of an attribute's value; equal where the values are, however their sizes are written."""
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
        case float() | np.floating():  # by its text: -0.0 is not 0.0, and nan is itself
            return ("float", repr(float(value)))
    return value


def source_params(made: Recipe | Param) -> list[Param]:
    """The model's own weights that a recipe or param is computed from, in order of appearance."""
    if isinstance(made, Param):
        return source_params(made.recipe) if made.recipe else [made]
    return [param for arg in made.args for param in source_params(arg)]


def same_recipe(a: Recipe | Param | None, b: Recipe | Param | None) -> bool:
    """True if two recipes compute the same value from the same weights of a function."""
    if isinstance(a, Param) and isinstance(b, Param):
        return a.name == b.name
    if not isinstance(a, Recipe) or not isinstance(b, Recipe):
        return a is b
    alike = (a.op, frozen(a.attrs), len(a.args)) == (b.op, frozen(b.attrs), len(b.args))
    return alike and all(map(same_recipe, a.args, b.args))


def under_prefix(recipe: Recipe | None, prefix: str) -> Recipe | None:
    """The recipe with its params named as the caller sees them, under `prefix`."""
    if recipe is None or not prefix:
        return recipe

    def arg(made: Recipe | Param) -> Recipe | Param:
        if isinstance(made, Param):
            return replace(
                made, value=Value(join(prefix, made.name), made.type), recipe=under_prefix(made.recipe, prefix)
            )
        return Recipe(made.op, tuple(arg(a) for a in made.args), made.attrs)

    return Recipe(recipe.op, tuple(arg(a) for a in recipe.args), recipe.attrs)


def join(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix and name else prefix or name


def parameters(module: Module, function: str, prefix: str = "") -> dict[str, Param]:
    """{state-dict path: Param} of everything a function reaches, in order of first use."""
    found: dict[str, Param] = {}
    fn = module.functions[function]
    for param in fn.params:
        found[join(prefix, param.name)] = param
    for node in fn.nodes:
        for callee in callees(node):
            found.update(parameters(module, callee, join(prefix, node.attrs.get("name", ""))))
    return found


def own_parameters(module: Module, function: str) -> dict[str, Param]:
    """{state-dict path: Param} of the model's own weights that a function's come from: no param with a recipe."""
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
    keep = reachable(module)
    if len(keep) == len(module.functions):
        return module
    return module.with_(functions={name: module.functions[name] for name in keep})


def only_entry(module: Module, entry: str) -> Module:
    """The module with only this entry, and the functions it reaches."""
    return prune(module.with_(entries={entry: module.entries[entry]}))


def count(module: Module, function: str, op: str) -> int:
    """Number of nodes of an op that a function reaches, counted per call; a loop's body counts once."""
    fn = module.functions[function]
    inner = sum(count(module, callee, op) for node in fn.nodes for callee in callees(node))
    return inner + sum(node.op == op for node in fn.nodes)


def networks_called(module: Module, function: str) -> list[str]:
    """Names under which a free function calls methods of classes, itself or through other free functions."""
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


def walk(module: Module) -> Iterator[tuple[Function, Node]]:
    for fn in module.functions.values():
        for node in fn.nodes:
            yield fn, node
