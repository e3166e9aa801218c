"""A builder that continues a function: the same signature, most nodes kept, some replaced."""

from __future__ import annotations

from collections.abc import Sequence

from latentc.ir.builder import Builder, ModuleBuilder, Var
from latentc.ir.core import Function, Node


class Rewriter(Builder):
    """Builds a function that has another's signature; `keep` takes over a node as it is."""

    def __init__(self, owner: ModuleBuilder, fn: Function) -> None:
        super().__init__(owner, fn.name, fn.origin)
        self._inputs = list(fn.inputs)
        self._params = {p.name: p for p in fn.params}
        # Names of the old nodes stay taken, so that a golden text shows only what a pass changed.
        self._names = {v.name for v in (*fn.inputs, *(p.value for p in fn.params))}
        self._names |= {o.name for n in fn.nodes for o in n.outputs}

    def keep(self, node: Node, operands: Sequence[Var]) -> tuple[Var, ...]:
        """Appends `node` applied to `operands`; the very node if they are its own."""
        ins = tuple(x.value for x in operands)
        return self.append(node if ins == node.inputs else Node(node.op, ins, node.outputs, node.attrs, node.loc))
