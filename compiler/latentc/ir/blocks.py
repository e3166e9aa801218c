"""Blocks: Python functions that build methods of emitted classes, and the names of blocks in a list."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from latentc.ir.types import Named


class BlockBody:
    """A Python function that builds a method of an emitted class; see `module_class`."""

    def __init__(
        self, body: Callable[..., Any], cls: str, method: str, shapes: Mapping[str, str], names: Sequence[str] = ()
    ) -> None:
        self.body, self.cls, self.method, self.shapes, self.names = body, cls, method, shapes, names
        self.__doc__ = body.__doc__

    def operands(self, count: int, names: Sequence[str]) -> list[str]:
        """Names of `count` operands: the block's own or its body's, then `names` for those that `*args` receives."""
        if self.names:
            return [*self.names, *names[len(self.names) : count]][:count]
        code = self.body.__code__
        own = code.co_varnames[1 : code.co_argcount][:count]
        star = code.co_varnames[code.co_argcount + code.co_kwonlyargcount] if code.co_flags & 4 else "x"
        return [*own, *(names[i] if i < len(names) else star for i in range(len(own), count))]


def module_class(cls: str, method: str = "forward", **shapes: str) -> Callable[[Callable[..., Any]], BlockBody]:
    """Marks `body(b, *operands, **static)` as the `method` of class `cls` in the emitted code.

    `shapes` declare the operands' shapes: `x="B channels H W"`. A word is a static argument, an expression of static
    arguments without blanks (`width//heads`), or the label of another size in capitals, with its meaning if it has one
    (`T=grid**2`). A dimension that is not declared is named by the caller's expression, which is ambiguous if two
    arguments have the same expression.
    """
    return lambda body: BlockBody(body, cls, method, shapes)


class Item(str):
    """The name of module `i` of a list, such as `blocks.3`.

    `length` is the number of modules as a size. `i` is the index as a size of that name, on which static arguments may
    depend (`dilation=2 ** (name.i % cycle)`).
    """

    length: int
    i: Named

    def __new__(cls, base: str, i: int, count: int) -> Item:
        self = super().__new__(cls, f"{base}.{i}")
        self.length = count
        self.i = Named(i, "i")
        return self


def items(base: str, count: int) -> list[Item]:
    """Names of `count` modules in a list: `for name in items("blocks", depth): x = b.sub(name, block, x, …)`."""
    return [Item(base, i, count) for i in range(count)]
