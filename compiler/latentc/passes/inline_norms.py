"""Inlines conditional batch norms, so that fusion sees them beside the convolutions before them."""

from __future__ import annotations

from collections.abc import Sequence

from latentc.ir.builder import Builder, Var
from latentc.ir.core import Module, Node, callees, prune
from latentc.passes.rewrite import rewrite


def inline_norms(module: Module) -> Module:
    """Inlines calls of functions that contain a batch norm but no convolution and no call.

    Returns the module unchanged if there are none.
    """

    def replace(b: Builder, node: Node, operands: list[Var]) -> Sequence[Var] | None:
        callee = module.functions[node.attrs["fn"]] if node.op == "call" else None
        if callee is None or callee.name in module.entries.values() or any(map(callees, callee.nodes)):
            return None
        ops = {inner.op for inner in callee.nodes}
        if "batch_norm" not in ops or "conv" in ops:
            return None
        env = dict(zip(callee.inputs, operands, strict=True))
        env.update((p.value, b.same_param(p, node.attrs["name"])) for p in callee.params)
        for inner in callee.nodes:
            env.update(zip(inner.outputs, b.copied(inner, [env[v] for v in inner.inputs]), strict=True))
        return [env[v] for v in callee.outputs]

    changed = rewrite(module, replace)
    return module if changed is module else prune(changed)
