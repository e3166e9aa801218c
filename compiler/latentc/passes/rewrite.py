"""Rewriting functions node by node, and loops block by block."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from latentc.ir.builder import Builder, ModuleBuilder, Rewriter, Var
from latentc.ir.core import Function, Module, Node

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


def loop_over_blocks(
    b: Builder,
    name: str,
    count: int,
    size: int,
    step: Callable[..., Any],
    invariants: Sequence[Var],
    carried: Sequence[Var],
    tables: Sequence[Var],
) -> tuple[list[Var], list[Var]]:
    """Appends a loop whose step handles `size` rows of each table at a time; returns (last carried values, stacks).

    `step` is as for `Builder.loop`, but its rows and the values that it stacks are [size, ...].
    """
    blocks = [b.reshape(x, shape=(count, size, *x.shape[1:]), out=x.value.name) for x in tables]
    outs = b.loop(name, count, step, invariants=invariants, carried=carried, tables=blocks)
    stacks = [b.reshape(y, shape=(count * size, *y.shape[2:])) for y in outs[len(carried) :]]
    return list(outs[: len(carried)]), stacks
