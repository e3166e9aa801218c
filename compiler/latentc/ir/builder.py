"""Building IR: ordinary Python over `Var` handles appends the nodes of a function; shapes are inferred on the way.

    def attention(b, x, *, dim, heads):
        q, k, v = b.split(b.linear("qkv", x, 3 * dim), ...)

    out = b.sub("attn", module_class("Attention")(attention), x, dim=width, heads=8)

`b.NAME(...)` appends op NAME (see `ops`). Static arguments reach the body as `Named` ints, so the IR knows that 1152
was written `3 * dim`, and the emitter prints it so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from latentc.ir.blocks import BlockBody, items, module_class
from latentc.ir.core import Function, Module, Names, Origin, Value, frozen, reachable
from latentc.ir.function_builder import Builder
from latentc.ir.ops import OpError
from latentc.ir.sizes import in_callee, is_size, signature
from latentc.ir.types import B, Named, TensorType, f32, i64, source_of
from latentc.ir.var import Var


class ModuleBuilder:
    """Collects functions, beginning with those of `module`; a block is built once per operand types and arguments."""

    def __init__(self, module: Module | None = None) -> None:
        self.functions: dict[str, Function] = dict(module.functions) if module else {}
        self.entries: dict[str, str] = dict(module.entries) if module else {}
        self._built: dict[Any, str] = {}
        self._names = Names(mark="#")

    def function(self, name: str) -> Builder:
        """A builder of a function that belongs to no class: a sampler, a loss."""
        return Builder(self, self.unique(name), None)

    def define(
        self,
        block: BlockBody,
        types: Sequence[TensorType],
        static: Mapping[str, Any],
        names: Sequence[str] = (),
    ) -> str:
        """Name of the function of a block for these operand types and static arguments, built at first use.

        Operands get the names of the body's parameters; those of its `*args` get the caller's `names`. Raises OpError
        if an operand has not the shape that the block declares.
        """
        traced = {k: Named(int(v), k) if is_size(v) else v for k, v in static.items()}
        words = block.operands(len(types), names)
        try:
            own = in_callee(types, traced, static, [block.shapes.get(w) for w in words])
        except ValueError as error:
            raise OpError(f"{block.cls}.{block.method}: {error}") from None
        key = (block.body, block.method, signature(own), tuple(own), frozen(static))
        if self._built.get(key) not in self.functions:
            b = Builder(self, self.unique(f"{block.cls}.{block.method}"), Origin(block.cls, traced, block.method))
            b.output(block.body(b, *(b.input(w, t) for w, t in zip(words, own, strict=True)), **traced))
            self._built[key] = b.finish(doc=(block.body.__doc__ or "").strip())
        return self._built[key]

    def finish(self) -> Module:
        return Module(dict(self.functions), dict(self.entries))

    def forget_unused(self) -> None:
        """Removes the functions that no entry reaches."""
        self.functions = {name: self.functions[name] for name in reachable(self.finish())}

    def unique(self, name: str) -> str:
        """A name for a function that no other has: `name`, `name#2`, …"""
        self._names.taken.update(self.functions)
        return self._names.fresh(name)


class Rewriter(Builder):
    """Builds a function with the inputs, params and origin of `fn`; the names of its values stay taken."""

    def __init__(self, owner: ModuleBuilder, fn: Function) -> None:
        super().__init__(owner, fn.name, fn.origin)
        self._inputs = list(fn.inputs)
        self._params = {p.name: p for p in fn.params}
        # Names of the old nodes stay taken, so that golden texts show only what a pass changed.
        self._names = Names(v.name for v in fn.values())

    def own_values(self) -> dict[Value, Var]:
        """The inputs and params as handles: {value of the function: its Var}."""
        return {v: Var(v, self) for v in (*self._inputs, *(p.value for p in self._params.values()))}


__all__ = [
    "B",
    "BlockBody",
    "Builder",
    "ModuleBuilder",
    "Rewriter",
    "Var",
    "f32",
    "i64",
    "items",
    "module_class",
    "source_of",
]
