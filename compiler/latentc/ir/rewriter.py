"""A builder that rewrites a function: the same signature, most nodes kept, some replaced."""

from __future__ import annotations

from latentc.ir.builder import Builder, ModuleBuilder, Var
from latentc.ir.core import Function, Names, Value


class Rewriter(Builder):
    """Builds a function with the inputs, params and origin of `fn`; the names of its values stay taken."""

    def __init__(self, owner: ModuleBuilder, fn: Function) -> None:
        super().__init__(owner, fn.name, fn.origin)
        self._inputs = list(fn.inputs)
        self._params = {p.name: p for p in fn.params}
        # Names of the old nodes stay taken, so that a golden text shows only what a pass changed.
        self._names = Names(v.name for v in fn.values())

    def own_values(self) -> dict[Value, Var]:
        """The inputs and params as handles: {value of the function: its Var}."""
        return {v: Var(v, self) for v in (*self._inputs, *(p.value for p in self._params.values()))}
