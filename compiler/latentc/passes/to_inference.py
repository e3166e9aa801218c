"""Removes training-only ops: dropout and the like become their operand. Names for several ops are written out."""

from __future__ import annotations

from collections.abc import Sequence

from latentc.ir.builder import Builder, Var
from latentc.ir.core import Module, Node
from latentc.ir.ops import OPS
from latentc.passes.rewrite import rewrite

# Ops that are the identity when no gradient is computed.
_IDENTITIES = frozenset({"stop_gradient"})


def to_inference(module: Module) -> Module:
    """Brings the module to stage `inference`; returns it unchanged if it has no training-only op and no sugar."""

    def replace(b: Builder, node: Node, operands: list[Var]) -> Sequence[Var] | None:
        row = OPS.get(node.op)
        if node.op in _IDENTITIES or (row is not None and row.train_only):
            return operands[:1]
        if row is not None and row.sugar and row.decompose is not None:
            return list(row.decompose(b, operands, node.attrs))
        return None

    return rewrite(module, replace)
