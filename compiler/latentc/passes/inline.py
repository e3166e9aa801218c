"""Inlines calls: one function of plain nodes and loops, with weights named by their full state-dict paths.

The last pass before a backend. Loop bodies stay functions, one for each state-dict prefix they run under; with `unroll`
loops are unrolled too. A weight that several calls share becomes one param.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from latentc.ir.core import Function, Module, Names, Node, Param, Value, join, live, parameters, under_prefix
from latentc.ir.types import Dim, Sym, TensorType, i64, substitute, unify

Sizes = Mapping[str, Dim]


class _Scope:
    """A flat function being built: the entry, or the body of a loop.

    `paths` are those of the weights it may use. A weight is named by its path, so no other value may have that name.
    """

    def __init__(self, paths: Iterable[str]) -> None:
        self.nodes: list[Node] = []
        self.params: dict[str, Param] = {}
        self.literals: dict[Value, Node] = {}
        self.fresh = Names(paths).fresh

    def param(self, prefix: str, param: Param) -> Value:
        path = join(prefix, param.name)
        if path not in self.params:
            value = Value(path, param.type)
            self.params[path] = replace(param, value=value, recipe=under_prefix(param.recipe, prefix))
        return self.params[path].value

    def add(self, op: str, ins: Sequence[Value], name: str, type: TensorType, **attrs: Any) -> Value:
        out = Value(self.fresh(name), type)
        self.nodes.append(Node(op, tuple(ins), (out,), attrs))
        if op == "constant":
            self.literals[out] = self.nodes[-1]
        return out

    def function(self, name: str, inputs: Sequence[Value], outputs: Sequence[Value], doc: str) -> Function:
        """The function, without unused nodes and params."""
        params, nodes = tuple(self.params.values()), live(self.nodes, outputs)
        return Function(name, tuple(inputs), params, nodes, tuple(outputs), None, doc).without_unused_params()


class _Inliner:
    def __init__(self, module: Module, entry: str, unroll: bool) -> None:
        self.module, self.unroll = module, unroll
        self._names = Names([entry], "#")
        self.functions: dict[str, Function] = {}
        self._bodies: dict[Any, str] = {}

    def function(self, source: Function, name: str, prefix: str, sizes: Sizes) -> Function:
        scope = _Scope(parameters(self.module, source.name, prefix))
        inputs = [Value(scope.fresh(v.name), substitute(v.type, sizes)) for v in source.inputs]
        outputs = self.emit(scope, source, inputs, prefix, sizes)
        return scope.function(name, inputs, outputs, source.doc)

    def emit(self, scope: _Scope, fn: Function, inputs: Sequence[Value], prefix: str, sizes: Sizes) -> list[Value]:
        """Appends the nodes of `fn` applied to `inputs` under `prefix`; returns its outputs."""
        env = dict(zip(fn.inputs, inputs, strict=True))
        for param in fn.params:
            env[param.value] = scope.param(prefix, param)
        for node in fn.nodes:
            ins = tuple([env[v] for v in node.inputs])
            if node.op == "call":
                callee = self.module.functions[node.attrs["fn"]]
                outs = self.emit(scope, callee, ins, join(prefix, node.attrs["name"]), _solve(callee, ins))
            elif node.op == "loop" and self.unroll:
                outs = self.unrolled(scope, node, ins, prefix)
            else:
                outs = [Value(scope.fresh(join(prefix, o.name)), substitute(o.type, sizes)) for o in node.outputs]
                attrs = _sized(node.attrs, sizes) if sizes else node.attrs
                if node.op == "loop":
                    attrs = {**attrs, "body": self.body(node, ins, prefix)}
                new = Node(node.op, ins, tuple(outs), attrs, node.loc or prefix)
                scope.nodes.append(new)
                if node.op == "constant":
                    scope.literals[outs[0]] = new
            env.update(zip(node.outputs, outs, strict=True))
        return [env[v] for v in fn.outputs]

    def body(self, node: Node, ins: Sequence[Value], prefix: str) -> str:
        """Name of the flat body of a loop under `prefix`."""
        source = self.module.functions[node.attrs["body"]]
        sizes = _solve(source, _body_operands(node, ins))
        key = (source.name, prefix, tuple(sizes.items()))
        if key not in self._bodies:
            name = self._names.fresh(source.name)
            self._bodies[key] = name
            self.functions[name] = self.function(source, name, prefix, sizes)
        return self._bodies[key]

    def unrolled(self, scope: _Scope, node: Node, ins: Sequence[Value], prefix: str) -> list[Value]:
        keep, carry, trip = node.attrs["invariants"], node.attrs["carried"], node.attrs["trip"]
        body = self.module.functions[node.attrs["body"]]
        sizes = _solve(body, _body_operands(node, ins))
        state, columns = list(ins[keep : keep + carry]), []
        for i in range(trip):
            index = scope.add("constant", (), "i", i64(), value=np.asarray(i, np.int64), dtype="i64")
            rows = [_row(scope, table, i) for table in ins[keep + carry :]]
            outs = self.emit(scope, body, [index, *ins[:keep], *state, *rows], prefix, sizes)
            state = outs[:carry]
            columns.append([_as_row(scope, v) for v in outs[carry:]])
        stacks = []
        for column, out in zip(zip(*columns, strict=True), node.outputs[carry:], strict=True):
            whole = column[0].type.with_shape([trip, *column[0].type.shape[1:]])
            stacks.append(scope.add("concat", column, join(prefix, out.name), whole, axis=0))
        return [*state, *stacks]


def _body_operands(node: Node, ins: Sequence[Value]) -> list[Value]:
    """Values of the types that a loop passes to its body."""
    head = node.attrs["invariants"] + node.attrs["carried"]
    rows = [Value(v.name, v.type.with_shape(v.type.shape[1:])) for v in ins[head:]]
    return [Value("i", i64()), *ins[:head], *rows]


def _solve(callee: Function, actuals: Sequence[Value]) -> dict[str, Dim]:
    """{run-time size of the callee: its value in a call}; empty if all keep their names."""
    sizes: dict[str, Dim] = {}
    for formal, actual in zip(callee.inputs, actuals, strict=True):
        unify(formal.type, actual.type, sizes)
    return sizes if any(size != Sym(name) for name, size in sizes.items()) else {}


def _sized(attrs: Mapping[str, Any], sizes: Sizes) -> Mapping[str, Any]:
    """Attributes with run-time sizes substituted."""
    if not any(isinstance(v, tuple) and any(isinstance(d, Sym) for d in v) for v in attrs.values()):
        return attrs

    def size(d: Any) -> Any:
        return sizes[d.name] * d.factor if isinstance(d, Sym) and d.name in sizes else d

    return {k: tuple(map(size, v)) if isinstance(v, tuple) else v for k, v in attrs.items()}


def _as_row(scope: _Scope, value: Value) -> Value:
    """A value as a table of one row."""
    shape = (1, *value.type.shape)
    return scope.add("reshape", (value,), f"{value.name}_row", value.type.with_shape(shape), shape=shape)


def _row(scope: _Scope, table: Value, i: int) -> Value:
    """Row i of a table, as a literal if the table is one."""
    type = table.type.with_shape(table.type.shape[1:])
    if table in scope.literals:
        literal = scope.literals[table].attrs
        return scope.add("constant", (), "c", type, value=np.asarray(literal["value"][i]), dtype=literal["dtype"])
    one = table.type.with_shape([1, *type.shape])
    part = scope.add("slice", (table,), f"{table.name}_row", one, axis=0, start=i, stop=i + 1)
    return scope.add("reshape", (part,), f"{table.name}_row", type, shape=type.shape)


def inline(module: Module, entry: str, unroll: bool = False) -> Module:
    """A module with only the entry `entry`, flat; with `unroll`, without loops. Needs `expand_guidance` before it."""
    source = module.functions[module.entries.get(entry, entry)]
    inliner = _Inliner(module, source.name, unroll)
    flat = inliner.function(source, source.name, "", {})
    return Module({**inliner.functions, flat.name: flat}, {entry: flat.name})
