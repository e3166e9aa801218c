"""Writes ops that a backend lacks in simpler ones, by the decomposition of their row."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from latentc.ir.builder import Builder, Var
from latentc.ir.core import Module, Node
from latentc.ir.ops import OPS, OpError
from latentc.passes.rewrite import has_op, rewrite


def decompose(module: Module, ops: Collection[str]) -> Module:
    """The module without `ops`; the same object where it holds none. OpError for an op that has no decomposition."""

    def replace(b: Builder, node: Node, operands: list[Var]) -> Sequence[Var] | None:
        if node.op not in ops:
            return None
        row = OPS[node.op]
        if row.decompose is None:
            raise OpError(f"{node.op} has no decomposition")
        return list(row.decompose(b, operands, node.attrs))

    while has_op(module, ops):  # a decomposition may use another op of the set: group norm is a layer norm
        module = rewrite(module, replace)
    return module
