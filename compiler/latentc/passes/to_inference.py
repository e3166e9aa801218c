"""Removes what only training does: dropout and other random ops become their operand."""

from __future__ import annotations

from collections.abc import Sequence

from latentc.ir.builder import Builder, Var
from latentc.ir.core import Module, Node
from latentc.ir.ops import OPS
from latentc.passes.rewrite import rewrite

# Ops that are the identity once no gradient is wanted.
_IDENTITIES = frozenset({"stop_gradient"})


def to_inference(module: Module) -> Module:
    """The module at stage `inference`; the same object where it holds no training op."""

    def replace(b: Builder, node: Node, operands: list[Var]) -> Sequence[Var] | None:
        row = OPS.get(node.op)
        if node.op in _IDENTITIES or (row is not None and row.train_only):
            return operands[:1]
        return None

    return rewrite(module, replace)
