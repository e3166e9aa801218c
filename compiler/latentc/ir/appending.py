"""`b.NAME(...)` for every op NAME; `python -m latentc.ir.stubs` writes the typed signatures in `appending.pyi`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from latentc.ir.ops import OPS


class Appending:
    """Ops as methods of a builder."""

    def op(self, op: str, *operands: Any, out: str = "", **attrs: Any) -> Any:
        raise NotImplementedError

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *OPS]

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("_") or name not in OPS:
            raise AttributeError(f"there is no op `{name}`", name=name, obj=self)
        return lambda *operands, **attrs: self.op(name, *operands, **attrs)
