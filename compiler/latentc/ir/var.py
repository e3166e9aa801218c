"""Handles of values that are being built, with arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from latentc.ir.core import Value
from latentc.ir.types import TensorType

if TYPE_CHECKING:
    from latentc.ir.builder import Builder


def _operator(op: str, swapped: bool = False) -> Callable[[Var, Any], Var]:
    def apply(own: Var, other: Any) -> Var:
        out: Var = own.b.op(op, *((other, own) if swapped else (own, other)))
        return out

    return apply


@dataclass(frozen=True, eq=False)
class Var:
    """A value being built. Arithmetic appends nodes; Python numbers become constants of its dtype."""

    value: Value
    b: Builder

    @property
    def type(self) -> TensorType:
        return self.value.type

    @property
    def shape(self) -> tuple[Any, ...]:
        return self.value.type.shape

    __add__, __radd__ = _operator("add"), _operator("add", swapped=True)
    __sub__, __rsub__ = _operator("sub"), _operator("sub", swapped=True)
    __mul__, __rmul__ = _operator("mul"), _operator("mul", swapped=True)
    __truediv__, __rtruediv__ = _operator("div"), _operator("div", swapped=True)
    __lt__, __le__, __gt__ = _operator("less"), _operator("less_equal"), _operator("greater")

    def __neg__(self) -> Var:
        out: Var = self.b.op("neg", self)
        return out


def as_tuple(outputs: Var | tuple[Var, ...]) -> tuple[Var, ...]:
    """The outputs of an appended node as a tuple, even if there is one only."""
    return outputs if isinstance(outputs, tuple) else (outputs,)
