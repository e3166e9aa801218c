"""A sampler driven by the host: the flat IR cut at its loops into engines, and the program that runs them.

The nodes before a loop become one engine, the loop's body one, the nodes after it another. A loop inside a step stays
in the step's engine, unless its noise is drawn or its caches grow step by step: then the body is several engines. State
passes between them as variables of the program; the noise of a step is drawn at that step.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from latentc.ir.core import Function, Module, Node, Value, reachable
from latentc.ir.types import Sym
from latentc_runtime.manifest import RESULT, EngineCall, Loop, Rows, Statement
from latentc_runtime.program import variables_read

TABLE_BYTES = 64 << 10
"""Constant tables up to this size are stored in the manifest; larger ones in the step engine."""

# (role, module with one function as the entry "main") -> file name of the engine
AddEngine = Callable[[str, Module], str]


@dataclass(frozen=True)
class _View:
    """Rows of a per-step input that are not drawn yet.

    `first`: index of the first row. `passed`: row strides of the enclosing loops. `axes`: row strides of the leading
    axes that index rows; the remaining axes belong to a row.
    """

    input: str
    first: int
    passed: tuple[int, ...]
    axes: tuple[int, ...]


@dataclass
class _Scope:
    """A function that is being cut, and its statements so far.

    `variables` {value: name}, `literals` {value: constant node}, `noise` {value: the rows that it stands for}.
    """

    fn: Function
    variables: dict[Value, str] = field(default_factory=dict)
    literals: dict[Value, Node] = field(default_factory=dict)
    noise: dict[Value, _View] = field(default_factory=dict)
    program: list[Statement] = field(default_factory=list)


class _Cutter:
    def __init__(
        self, module: Module, per_step: Mapping[str, int], add: AddEngine, any_trip: bool, inner_loops: bool
    ) -> None:
        self.module, self.per_step, self.add = module, per_step, add
        self.any_trip, self.inner_loops = any_trip, inner_loops
        self._taken: dict[str, int] = {}

    def fresh(self, name: str) -> str:
        """A variable name that is not in use."""
        count = self._taken.get(name, 0)
        self._taken[name] = count + 1
        return self.fresh(f"{name}.{count}") if count else name

    def entry(self, fn: Function) -> tuple[list[Statement], list[str]]:
        self._taken[RESULT] = 1
        views = {v: _View(v.name, 0, (), (1,)) for v in fn.inputs if v.name in self.per_step}
        scope = _Scope(fn, {v: self.fresh(v.name) for v in fn.inputs}, noise=views)
        result = fn.outputs[0]
        self.function(scope, ("prologue", "epilogue"))
        # A result that comes from a loop or is an input needs a copy to get its name.
        if scope.variables[result] != RESULT:
            copied = Value(RESULT, result.type)
            self.engine(scope, [_copy(result, copied)], "epilogue", {copied}, {copied: RESULT})
        return scope.program, [RESULT, *(scope.variables[other] for other in fn.outputs[1:])]

    def function(self, scope: _Scope, roles: tuple[str, str]) -> None:
        """Makes the statements of the function."""
        pending: list[Node] = []
        fn, role = scope.fn, roles[0]
        for position, node in enumerate(fn.nodes):
            if node.op == "constant":
                scope.literals[node.outputs[0]] = node
                continue
            if node.op != "loop" or (role == "step" and self.stays(node, scope)):
                view = _viewed(fn, node, scope.noise)
                if view is None:
                    pending.append(node)
                else:
                    scope.noise[node.outputs[0]] = view
                continue
            self.loop(scope, node, fn.nodes[position + 1 :], pending, role)
            pending, role = [], roles[1]
        wanted = {v for v in fn.outputs if v not in scope.variables}
        literals = [scope.literals[v] for v in wanted if v in scope.literals]
        if pending or literals:
            named = {fn.outputs[0]: RESULT} if roles[1] == "epilogue" else {}
            self.engine(scope, [*literals, *pending], role, wanted, named)

    def stays(self, node: Node, scope: _Scope) -> bool:
        """True if a loop inside a step is part of the step's engine: a call for each of its own steps costs more."""
        if not self.inner_loops or any(v in scope.noise for v in node.inputs):
            return False
        # If the host carries a cache, an engine may write its rows in place; a loop inside the engine copies it.
        inside = reachable(self.module, (node.attrs["body"],))
        return all(n.op != "update_slice" for name in inside for n in self.module.functions[name].nodes)

    def loop(self, scope: _Scope, node: Node, after: Sequence[Node], pending: list[Node], role: str) -> None:
        keep, carry, trip = node.attrs["invariants"], node.attrs["carried"], node.attrs["trip"]
        body = self.module.functions[node.attrs["body"]]
        if len(node.outputs) > carry:
            raise ValueError(f"{body.name} stacks values: run carry_stacks first")
        inner = body.inputs
        index, rows = inner[0], inner[1 + keep + carry :]
        operands, tables = _operands(node), node.inputs[keep + carry :]
        extra: list[Node] = []  # nodes added to the body, which select rows of tables that it is given whole
        whole: list[tuple[Value, Value]] = []
        small: dict[str, Any] = {}
        noise: dict[str, Rows] = {}
        body_scope = _Scope(body)
        for table, row in zip(tables, rows, strict=True):
            literal = scope.literals.get(table)
            if literal is not None and np.asarray(literal.attrs["value"]).nbytes <= TABLE_BYTES:
                body_scope.variables[row] = self.fresh(row.name)
                small[body_scope.variables[row]] = tuple(np.asarray(literal.attrs["value"]).tolist())
            elif table in scope.noise:
                view = scope.noise[table]
                strides = (*view.passed, view.axes[0])
                if len(view.axes) > 1:
                    body_scope.noise[row] = replace(view, passed=strides, axes=view.axes[1:])
                else:
                    body_scope.variables[row] = self.fresh(row.name)
                    noise[body_scope.variables[row]] = Rows(view.input, view.first, strides)
            else:
                shared = self.any_trip and literal is None  # by programs with other step counts
                type = table.type.with_shape([Sym("N"), *table.type.shape[1:]]) if shared else table.type
                inside = Value(f"{row.name}.table", type)
                extra.append(Node("take", (inside, index), (row,), {"axis": 0}))
                whole.append((table, inside))
        # The engine before the loop returns the values that the loop and later nodes read.
        read = [*operands, *(table for table, _ in whole)]
        copies = self.copies(scope, node, after, read)
        later = {v for n in after for v in n.inputs} | set(scope.fn.outputs) | set(read) | {c for c in copies if c}
        made = [*pending, *(_copy(v, c) for v, c in zip(operands[keep:], copies, strict=True) if c is not None)]
        if made:
            self.engine(scope, made, role, later, {})
        state = [scope.variables[c or v] for v, c in zip(operands[keep:], copies, strict=True)]
        body_scope.variables.update(zip(inner[1 + keep : 1 + keep + carry], state, strict=True))
        params, own = {p.value: p for p in scope.fn.params}, {}  # weights that are passed to steps
        for actual, formal in (*zip(operands[:keep], inner[1 : 1 + keep], strict=True), *whole):
            if actual in params:
                own[formal] = params[actual]
            elif actual in scope.literals:
                body_scope.literals[formal] = Node("constant", (), (formal,), scope.literals[actual].attrs)
            else:
                body_scope.variables[formal] = scope.variables[actual]
        nodes = (*extra, *body.nodes)
        if own:
            nodes = tuple(replace(n, inputs=tuple(own[v].value if v in own else v for v in n.inputs)) for n in nodes)
        counted = any(index in n.inputs for n in nodes) or index in body.outputs
        if counted:
            body_scope.variables[index] = self.fresh("step")
        body_scope.fn = body.with_(nodes=nodes, params=(*body.params, *dict.fromkeys(own.values())))
        self.function(body_scope, ("step", "step"))
        carried = tuple((name, body_scope.variables[v]) for name, v in zip(state, body.outputs, strict=True))
        scope.program.append(
            Loop(
                "loop",
                trip,
                # An inner loop runs again from the same initial values, so it must not overwrite them.
                _shared(body_scope.program, () if role == "step" else carried),
                small,
                noise,
                carried,
                body_scope.variables[index] if counted else None,
                None if (until := node.attrs.get("until")) is None else state[until],
            )
        )
        scope.variables.update(zip(node.outputs, state, strict=True))

    def copies(self, scope: _Scope, node: Node, after: Sequence[Node], read: Sequence[Value]) -> list[Value | None]:
        """For each carried operand a copy to carry if its own variable is still needed (the loop overwrites it)."""
        keep, carry = node.attrs["invariants"], node.attrs["carried"]
        uses = Counter(self.variable(v, scope) for n in after for v in n.inputs)
        uses.update(self.variable(v, scope) for v in (*scope.fn.outputs, *read))
        result: list[Value | None] = []
        for v in node.inputs[keep : keep + carry]:
            shared = uses[self.variable(v, scope)] > 1 or v in scope.literals
            result.append(Value(self.fresh(f"{v.name}.carried"), v.type) if shared else None)
        return result

    @staticmethod
    def variable(value: Value, scope: _Scope) -> Any:
        return scope.variables.get(value, value)

    def engine(
        self, scope: _Scope, nodes: Sequence[Node], role: str, wanted: set[Value], named: Mapping[Value, str]
    ) -> None:
        """Appends the call of an engine that runs `nodes` and returns those of their values that are `wanted`."""
        made = {o for n in nodes for o in n.outputs}
        literals = {v: scope.literals[v] for n in nodes for v in n.inputs if v in scope.literals and v not in made}
        outputs = [o for n in nodes for o in n.outputs if o in wanted]
        if not outputs:
            return
        used = {v for n in nodes for v in n.inputs}
        params = tuple(p for p in scope.fn.params if p.value in used)
        given = made | literals.keys() | {p.value for p in params}
        if late := [v.name for v in used - given if v not in scope.variables]:
            raise ValueError(f"{role} reads {', '.join(late)}, which an inner loop produces row by row")
        inputs = [v for v in dict.fromkeys(v for n in nodes for v in n.inputs) if v not in given]
        part = Function("main", tuple(inputs), params, (*literals.values(), *nodes), tuple(outputs))
        bodies = reachable(self.module, tuple(n.attrs["body"] for n in nodes if n.op == "loop"))
        functions = {name: self.module.functions[name] for name in bodies} | {"main": part}
        file = self.add(role, Module(functions, {"main": "main"}))
        for o in outputs:
            scope.variables[o] = named[o] if o in named else self.fresh(o.name)
        scope.program.append(
            EngineCall(
                "engine",
                file,
                {v.name: scope.variables[v] for v in inputs},
                {scope.variables[o]: o.name for o in outputs},
                _grown(nodes, inputs, outputs),
            )
        )


def _grown(nodes: Sequence[Node], inputs: Sequence[Value], outputs: Sequence[Value]) -> dict[str, str]:
    """{output: input} where the output is an input with some rows overwritten, and nothing else reads that input."""
    uses = Counter(v for n in nodes for v in n.inputs)
    grown = {n.outputs[0]: n.inputs[0] for n in nodes if n.op == "update_slice"}
    return {o.name: grown[o].name for o in outputs if o in grown and grown[o] in inputs and uses[grown[o]] == 1}


def _shared(body: Sequence[Statement], carried: Sequence[tuple[str, str]]) -> tuple[Statement, ...]:
    """A loop's body whose calls share an input with an output only if the loop carries that output into that input."""
    read = Counter(v for s in body if isinstance(s, EngineCall) for v in s.inputs.values())
    read.update(v for s in body if isinstance(s, Loop) for v in variables_read([s]))
    read.update(new for _, new in carried)
    following = dict(carried)

    def kept(call: EngineCall) -> EngineCall:
        variable = {name: v for v, name in call.outputs.items()}
        pairs = {
            o: i
            for o, i in call.shared.items()
            if read[call.inputs[i]] == 1 and following.get(call.inputs[i]) == variable[o]
        }
        return replace(call, shared=pairs)

    return tuple(kept(s) if isinstance(s, EngineCall) else s for s in body)


def _operands(loop: Node) -> tuple[Value, ...]:
    """Operands of a loop without its tables: invariants, then carried values."""
    return loop.inputs[: loop.attrs["invariants"] + loop.attrs["carried"]]


def _copy(value: Value, copy: Value) -> Node:
    return Node("reshape", (value,), (copy,), {"shape": value.type.shape})


def _viewed(fn: Function, node: Node, views: Mapping[Value, _View]) -> _View | None:
    """The rows that a node selects from a per-step input, if all its uses are loop tables; else None."""
    view = views.get(node.inputs[0]) if node.op in ("slice", "reshape") else None
    if view is None or not _only_rows(fn, node.outputs[0]):
        return None
    shape, out = node.inputs[0].type.shape, node.outputs[0].type.shape
    if node.op == "slice":
        axis = node.attrs["axis"] % len(shape)
        if axis >= len(view.axes):
            return None
        return replace(view, first=view.first + node.attrs["start"] * view.axes[axis])
    own = shape[len(view.axes) :]
    axes = _strides([int(d) for d in shape[: len(view.axes)]], view.axes, out[: len(out) - len(own)])  # type: ignore[arg-type]
    return replace(view, axes=axes) if axes and out[len(out) - len(own) :] == own else None


def _only_rows(fn: Function, value: Value) -> bool:
    """True if a value is only used as a loop table, directly or through slices and reshapes."""
    for node in fn.nodes:
        if value not in node.inputs:
            continue
        if node.op == "loop":
            if value in _operands(node):
                return False
        elif node.op not in ("slice", "reshape") or not _only_rows(fn, node.outputs[0]):
            return False
    return value not in fn.outputs


def _strides(sizes: Sequence[int], strides: Sequence[int], wanted: Sequence[Any]) -> tuple[int, ...]:
    """Strides of the axes into which a reshape splits leading axes; empty if it is another kind of reshape."""
    rest = [(n, k) for n, k in zip(sizes, strides, strict=True) if n != 1]
    found: list[int] = []
    for size in reversed([int(d) for d in wanted]):
        if size == 1:
            found.append(0)
            continue
        if not rest or rest[-1][0] % size:
            return ()
        n, k = rest.pop()
        found.append(k)
        if n != size:
            rest.append((n // size, k * size))
    return () if rest else tuple(reversed(found))


def program_from_module(
    module: Module,
    entry: str,
    per_step: Mapping[str, int],
    add: AddEngine,
    any_trip: bool,
    inner_loops: bool,
) -> tuple[list[Statement], list[str]]:
    """The host program of a flat module's entry, and the variables of its outputs; the first is `out`.

    `per_step` {input: rows} are the inputs with one row per step; `add` takes each engine's module and returns its
    file. With `any_trip`, engines accept tables of any length, so that programs with different step counts share them.
    With `inner_loops`, loops inside a step are part of its engine where nothing of theirs is made step by step.
    Raises ValueError for an entry that stacks values: see `carry_stacks`.
    """
    return _Cutter(module, per_step, add, any_trip, inner_loops).entry(module.entry(entry))


# ---- stacked results as carried values


def carry_stacks(module: Module) -> Module:
    """Replaces each stacked result of a loop, which host programs lack, by a carried tensor that each step writes to.

    Returns the module unchanged if there are none.
    """
    functions = dict(module.functions)
    for name, fn in module.functions.items():  # callees first, so that a body is done before its loop
        if any(n.op == "loop" and len(n.outputs) > n.attrs["carried"] for n in fn.nodes):
            functions[name] = _carried_function(functions, fn)
    return module if functions == dict(module.functions) else module.with_(functions=functions)


def _carried_function(functions: dict[str, Function], fn: Function) -> Function:
    nodes: list[Node] = []
    for node in fn.nodes:
        if node.op != "loop" or len(node.outputs) == node.attrs["carried"]:
            nodes.append(node)
            continue
        keep, carry = node.attrs["invariants"], node.attrs["carried"]
        stacks = node.outputs[carry:]
        first = [_zeros(fn, nodes, v) for v in stacks]
        ins = (*node.inputs[: keep + carry], *first, *node.inputs[keep + carry :])
        body = _carried_body(functions[node.attrs["body"]], keep, carry, stacks)
        functions[body.name] = body
        attrs = {**node.attrs, "body": body.name, "carried": carry + len(stacks)}
        nodes.append(Node("loop", ins, node.outputs, attrs, node.loc))
    return fn.with_(nodes=tuple(nodes))


def _carried_body(body: Function, keep: int, carry: int, stacks: Sequence[Value]) -> Function:
    index = body.inputs[0]
    held = [Value(f"{v.name}.stack", v.type) for v in stacks]
    grown = [Value(f"{v.name}.stacked", v.type) for v in stacks]
    nodes = list(body.nodes)
    for v, old, new in zip(body.outputs[carry:], held, grown, strict=True):
        row = Value(f"{old.name}.row", v.type.with_shape([1, *v.type.shape]))
        nodes.append(Node("reshape", (v,), (row,), {"shape": row.type.shape}))
        nodes.append(Node("update_slice", (old, row, index), (new,), {"axis": 0}))
    inputs = (*body.inputs[: 1 + keep + carry], *held, *body.inputs[1 + keep + carry :])
    outputs = (*body.outputs[:carry], *grown)
    return body.with_(name=f"{body.name}.carried", inputs=inputs, nodes=tuple(nodes), outputs=outputs)


def _zeros(fn: Function, nodes: list[Node], like: Value) -> Value:
    """Appends zeros of the type of `like`; `full` reads a run-time size from an operand and puts it first."""
    type = like.type
    where = next((i for i, d in enumerate(type.shape) if isinstance(d, Sym)), None)
    zero = Value(f"{like.name}.zeros", type)
    if where is None:
        value = np.zeros([int(d) for d in type.shape], np.float64 if type.is_float else np.int64)  # type: ignore[arg-type]
        nodes.append(Node("constant", (), (zero,), {"value": value, "dtype": type.dtype}))
        return zero
    sym = type.shape[where]
    assert isinstance(sym, Sym)
    known = (*fn.inputs, *(o for n in nodes for o in n.outputs))
    source = next(v for v in known if v.type.rank and v.type.shape[0] == Sym(sym.name))
    rest = [*type.shape[:where], *type.shape[where + 1 :]]
    flat = Value(f"{like.name}.full", type.with_shape([sym, *rest]))
    attrs = {"shape": tuple(rest), "value": 0, "dtype": type.dtype, "factor": sym.factor}
    nodes.append(Node("full", (source,), (flat,), attrs))
    perm = (*range(1, where + 1), 0, *range(where + 1, type.rank))
    nodes.append(Node("transpose", (flat,), (zero,), {"perm": perm}))
    return zero
