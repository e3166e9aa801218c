"""Checks a module: SSA, types, call signatures, shared weights, and the ops that must be gone by a stage.

Run after every pass. A fault names the function and shows the nodes around it.
"""

from __future__ import annotations

from collections.abc import Sequence

import networkx as nx

from latentc.ir.core import Function, Module, Node, Value, callees, parameters
from latentc.ir.ops import CONTROL, OPS, OpError
from latentc.ir.ops.control import call_types, guided_types, loop_types
from latentc.ir.text import node_text
from latentc.ir.types import TensorType

# stage -> ops that may not appear in it
FORBIDDEN: dict[str, frozenset[str]] = {
    "train": frozenset(),
    "inference": frozenset(name for name, row in OPS.items() if row.train_only),
    "expanded": frozenset({"guided"} | {name for name, row in OPS.items() if row.train_only}),
    "inlined": frozenset({"guided", "call"} | {name for name, row in OPS.items() if row.train_only}),
}


class VerifyError(Exception):
    """A module that is not well formed; `function` and `detail` say where and what."""

    def __init__(self, function: str, detail: str, context: str = "") -> None:
        self.function, self.detail, self.context = function, detail, context
        super().__init__(f"in {function}: {detail}" + (f"\n{context}" if context else ""))


def _around(fn: Function, index: int) -> str:
    lines = []
    for i in range(max(0, index - 2), min(len(fn.nodes), index + 3)):
        lines.append(("  > " if i == index else "    ") + node_text(fn.nodes[i]))
    return "\n".join(lines)


def _node_types(module: Module, node: Node) -> Sequence[TensorType]:
    actuals = [v.type for v in node.inputs]
    if node.op == "call":
        callee = module.functions[node.attrs["fn"]]
        return call_types(callee.name, callee.inputs, callee.outputs, actuals)
    if node.op == "guided":
        return guided_types(module.functions[node.attrs["fn"]], actuals, node.attrs)
    if node.op == "loop":
        return loop_types(module.functions[node.attrs["body"]], actuals, node.attrs)
    return OPS[node.op].infer(actuals, node.attrs)


def _verify_function(module: Module, fn: Function, stage: str) -> None:
    known: set[Value] = set()
    names: set[str] = set()

    def define(value: Value, where: str) -> None:
        if value.name in names:
            raise VerifyError(fn.name, f"{where} defines {value.name} a second time")
        names.add(value.name)
        known.add(value)

    for value in (*fn.inputs, *(p.value for p in fn.params)):
        define(value, "the signature")
    for index, node in enumerate(fn.nodes):
        if node.op not in OPS and node.op not in CONTROL:
            raise VerifyError(fn.name, f"unknown op {node.op}", _around(fn, index))
        if node.op in FORBIDDEN[stage]:
            raise VerifyError(fn.name, f"{node.op} may not appear at stage {stage}", _around(fn, index))
        for value in node.inputs:
            if value not in known:
                raise VerifyError(fn.name, f"{value.name} is used before it is defined", _around(fn, index))
        for callee in callees(node):
            if callee not in module.functions:
                raise VerifyError(fn.name, f"{node.op} names {callee}, which is not in the module", _around(fn, index))
        try:
            types = _node_types(module, node)
        except OpError as error:
            raise VerifyError(fn.name, f"{node.op}: {error}", _around(fn, index)) from None
        if [*types] != [o.type for o in node.outputs]:
            found, wanted = ", ".join(str(o.type) for o in node.outputs), ", ".join(map(str, types))
            raise VerifyError(fn.name, f"{node.op} gives {wanted}, not {found}", _around(fn, index))
        for value in node.outputs:
            define(value, node.op)
    for value in fn.outputs:
        if value not in known:
            raise VerifyError(fn.name, f"output {value.name} is not defined")


def _verify_methods(module: Module) -> None:
    """Methods of one class with equal static arguments share weights: their common params must be equal."""
    seen: dict[tuple[str, str], dict[str, TensorType]] = {}
    for fn in module.functions.values():
        if fn.origin is None:
            continue
        key = (fn.origin.cls, repr(dict(fn.origin.args)))
        params = seen.setdefault(key, {})
        for path, param in parameters(module, fn.name).items():
            if params.setdefault(path, param.type) != param.type:
                raise VerifyError(fn.name, f"weight {path} is {param.type} here and {params[path]} in another method")


def verify(module: Module, stage: str = "train") -> Module:
    """Returns the module if it is well formed at `stage`; raises VerifyError otherwise."""
    graph = nx.DiGraph()
    graph.add_nodes_from(module.functions)
    for fn in module.functions.values():
        graph.add_edges_from((fn.name, callee) for node in fn.nodes for callee in callees(node))
    if not nx.is_directed_acyclic_graph(graph):
        cycle = " -> ".join(edge[0] for edge in nx.find_cycle(graph))
        raise VerifyError(cycle.split(" ")[0], f"functions call each other in a circle: {cycle}")
    for name, function in module.entries.items():
        if function not in module.functions:
            raise VerifyError(name, f"entry names {function}, which is not in the module")
    for fn in module.functions.values():
        _verify_function(module, fn, stage)
    _verify_methods(module)
    return module
