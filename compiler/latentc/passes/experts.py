"""Routed experts in the forms that engines take; both are exact.

dense   every expert for every token, with gate zero for those it was not routed to: shapes that are known when an
        engine is built, and E / K times the arithmetic
sparse  an op an expert, which an engine may run for the tokens routed to it alone
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Literal

from latentc.ir.builder import Builder, Var
from latentc.ir.core import Module, Node, Recipe, walk
from latentc.ir.ops import OPS, OpError
from latentc.ir.ops.experts import dense_experts, sparse_experts
from latentc.passes.rewrite import rewrite

Form = Literal["dense", "sparse"]


def experts(module: Module, form: Form = "dense") -> Module:
    """The module with its routed experts apart; the same object where it has none.

    An expert's weights become params of their own, made of the stacks that files hold: no engine has to slice them.
    """
    if not any(node.op == "experts" for _, node in walk(module)):
        return module
    made = rewrite(module, functools.partial(_replace, form))
    functions = dict(made.functions)
    for name, fn in made.functions.items():
        if fn is not module.functions[name]:
            used = {v for node in fn.nodes for v in node.inputs} | set(fn.outputs)
            functions[name] = fn.with_(params=tuple(p for p in fn.params if p.value in used))
    return made.with_(functions=functions)


def _replace(form: Form, b: Builder, node: Node, operands: list[Var]) -> Sequence[Var] | None:
    if node.op != "experts":
        return None
    x, gates, *stacks = operands
    params = {p.value: p for p in b.params.values()}
    if any(w.value not in params or params[w.value].recipe for w in stacks):
        return list(OPS["experts"].decompose(b, operands, node.attrs))  # type: ignore[misc]
    count = int(gates.shape[-1])  # type: ignore[arg-type]
    try:
        each = [
            [b.made(f"{w.value.name}.{e}", Recipe("pick", (params[w.value],), {"index": e})) for w in stacks]
            for e in range(count)
        ]
    except OpError:  # a name is taken
        return list(OPS["experts"].decompose(b, operands, node.attrs))  # type: ignore[misc]
    return [(dense_experts if form == "dense" else sparse_experts)(b, x, gates, each)]
