"""Puts conditional batch norms, functions of their own, where they are called: beside the convolutions before them."""

from __future__ import annotations

from collections.abc import Sequence

from latentc.ir.builder import Builder, Var
from latentc.ir.core import Module, Node, callees, join, prune
from latentc.passes.rewrite import rewrite


def open_norms(module: Module) -> Module:
    """The module without calls of functions that hold a batch norm, no convolution and no call.

    The same object where there are none.
    """

    def replace(b: Builder, node: Node, operands: list[Var]) -> Sequence[Var] | None:
        callee = module.functions[node.attrs["fn"]] if node.op == "call" else None
        if callee is None or callee.name in module.entries.values() or any(map(callees, callee.nodes)):
            return None
        ops = {inner.op for inner in callee.nodes}
        if "batch_norm" not in ops or "conv" in ops:
            return None
        env = dict(zip(callee.inputs, operands, strict=True))
        for p in callee.params:
            env[p.value] = b.param(join(node.attrs["name"], p.name), p.type, p.init.kind, p.kind, **p.init.args)
        for inner in callee.nodes:
            env.update(zip(inner.outputs, b.copied(inner, [env[v] for v in inner.inputs]), strict=True))
        return [env[v] for v in callee.outputs]

    made = rewrite(module, replace)
    return module if made is module else prune(made)
