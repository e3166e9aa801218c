"""Writes ops that a backend lacks in simpler ones, by the decomposition of their row."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from latentc.ir.builder import Builder, Var
from latentc.ir.core import Module, Node, reachable, walk
from latentc.ir.ops import OPS, OpError
from latentc.passes.rewrite import rewrite


def decompose(module: Module, ops: Collection[str], which: Callable[[Node], bool] = lambda node: True) -> Module:
    """The module without `ops`, or without those nodes of them that `which` picks; the same object where it has none.

    OpError for an op that has no decomposition.
    """

    def replace(b: Builder, node: Node, operands: list[Var]) -> Sequence[Var] | None:
        if node.op not in ops or not which(node):
            return None
        row = OPS[node.op]
        if row.decompose is None:
            raise OpError(f"{node.op} has no decomposition")
        return list(row.decompose(b, operands, node.attrs))

    # A decomposition may use another op of the set: group norm is a layer norm.
    while (made := rewrite(module, replace)) is not module:
        module = made
    return module


def decompose_in_loops(module: Module, ops: Collection[str]) -> Module:
    """The module without `ops` in the bodies of its loops and in the functions that these call."""
    bodies = tuple(node.attrs["body"] for _, node in walk(module) if node.op == "loop")
    looped = {node for name in reachable(module, bodies) for node in module.functions[name].nodes if node.op in ops}
    return decompose(module, ops, lambda node: node in looped) if looped else module
