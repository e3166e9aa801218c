"""What rewriting passes share: a function rewritten node by node."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from latentc.ir.builder import Builder, ModuleBuilder, Var
from latentc.ir.core import Function, Module, Node, Value
from latentc.ir.rewriter import Rewriter

# (builder, node, its operands as the new function has them) -> replacement outputs, or None to keep the node
Replace = Callable[[Builder, Node, list[Var]], Sequence[Var] | None]


def rewrite_function(owner: ModuleBuilder, fn: Function, replace: Replace) -> Function:
    """`fn` with each node that `replace` answers for replaced; `fn` itself where it answers for none."""
    b = Rewriter(owner, fn)
    env: dict[Value, Var] = {v: Var(v, b) for v in (*fn.inputs, *(p.value for p in fn.params))}
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
    """Every function rewritten; the same module where nothing changed."""
    owner = ModuleBuilder()
    owner.adopt(module)
    functions: dict[str, Function] = {}
    for name, fn in module.functions.items():
        functions[name] = rewrite_function(owner, fn, replace)
    if all(functions[name] is fn for name, fn in module.functions.items()):
        return module
    return module.with_(functions=functions)
