"""Expands mixture-of-experts nodes into one of two exact forms.

dense   every expert runs on every token, with gate 0 for tokens that are not routed to it: all shapes are static, at
        E / K times the arithmetic
sparse  one `expert` op per expert, which an engine may run only on the tokens routed to it
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Literal

from latentc.ir.builder import Builder, Var
from latentc.ir.core import Module, Node, Recipe, walk
from latentc.ir.ops import OPS, OpError
from latentc.ir.ops.experts import EXPERTS
from latentc.passes.rewrite import rewrite

Form = Literal["dense", "sparse"]


def expand_experts(module: Module, form: Form = "dense") -> Module:
    """Expands each node of routed experts into one part per expert; returns the module unchanged if there are none.

    Each expert's weights become params of their own, computed from the stacked weights in the files, so that no engine
    has to slice them.
    """
    if not any(node.op in EXPERTS for _, node in walk(module)):
        return module
    functions = rewrite(module, functools.partial(_replace, form)).functions
    changed = {name: fn.without_unused_params() for name, fn in functions.items() if fn is not module.functions[name]}
    return module.with_(functions={**functions, **changed})


def _replace(form: Form, b: Builder, node: Node, operands: list[Var]) -> Sequence[Var] | None:
    if node.op not in EXPERTS:
        return None
    x, gates, *stacks = operands
    params = {p.value: p for p in b.params.values()}
    if any(w.value not in params or params[w.value].recipe for w in stacks):
        return list(OPS[node.op].decompose(b, operands, node.attrs))  # type: ignore[misc]
    count = int(gates.shape[-1])  # type: ignore[arg-type]
    try:
        weights = [
            [b.derived(f"{w.value.name}.{e}", Recipe("pick", (params[w.value],), {"index": e})) for w in stacks]
            for e in range(count)
        ]
    except OpError:  # the name is taken
        return list(OPS[node.op].decompose(b, operands, node.attrs))  # type: ignore[misc]
    expert = EXPERTS[node.op]
    return [(expert.dense if form == "dense" else expert.sparse)(b, x, gates, weights)]
