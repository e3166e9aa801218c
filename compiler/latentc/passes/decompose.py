"""Decomposes ops that a backend lacks into simpler ones."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from latentc.ir.builder import Builder, Var
from latentc.ir.core import Module, Node, reachable
from latentc.ir.ops import OPS, OpError
from latentc.passes.rewrite import rewrite


def decompose(module: Module, ops: Collection[str], which: Callable[[Node], bool] = lambda node: True) -> Module:
    """Decomposes the nodes of `ops` that `which` accepts; returns the module unchanged if there are none.

    Raises OpError for an op that has no decomposition.
    """

    def replace(b: Builder, node: Node, operands: list[Var]) -> Sequence[Var] | None:
        if node.op not in ops or not which(node):
            return None
        row = OPS[node.op]
        if row.decompose is None:
            raise OpError(f"{node.op} has no decomposition")
        return list(row.decompose(b, operands, node.attrs))

    # A decomposition may contain another op of the set: that of group norm contains a layer norm.
    while (changed := rewrite(module, replace)) is not module:
        module = changed
    return module


def decompose_in_loops(module: Module, ops: Collection[str], depth: int = 1) -> Module:
    """Decomposes `ops` in the bodies of loops, and in what these call; of loops `depth` deep or deeper."""
    functions = tuple(module.functions)
    for _ in range(depth):
        nodes = [node for name in functions for node in module.functions[name].nodes]
        functions = tuple(reachable(module, tuple(node.attrs["body"] for node in nodes if node.op == "loop")))
    looped = {node for name in functions for node in module.functions[name].nodes if node.op in ops}
    return decompose(module, ops, lambda node: node in looped) if looped else module
