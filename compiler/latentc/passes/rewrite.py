"""Rewriting functions node by node."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from latentc.ir.builder import Builder, ModuleBuilder, Var
from latentc.ir.core import Function, Module, Node
from latentc.ir.rewriter import Rewriter

# (builder, node, its operands as the new function has them) -> replacement outputs, or None to keep the node
Replace = Callable[[Builder, Node, list[Var]], Sequence[Var] | None]


def rewrite_function(owner: ModuleBuilder, fn: Function, replace: Replace) -> Function:
    """`fn` with the replacements that `replace` returns; `fn` itself if there are none."""
    b = Rewriter(owner, fn)
    env = b.own_values()
    changed = False
    for node in fn.nodes:
        operands = [env[v] for v in node.inputs]
        outs = replace(b, node, operands)
        changed = changed or outs is not None
        env.update(zip(node.outputs, outs if outs is not None else b.keep(node, operands), strict=True))
    if not changed:
        return fn
    b.output([env[v] for v in fn.outputs])
    b.finish(fn.doc)
    return owner.functions[fn.name]


def rewrite(module: Module, replace: Replace) -> Module:
    """Rewrites every function; returns the module unchanged if nothing is replaced."""
    owner = ModuleBuilder(module)
    return module.with_functions({name: rewrite_function(owner, fn, replace) for name, fn in module.functions.items()})
