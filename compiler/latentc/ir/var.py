"""Handles of values that are being built, with arithmetic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from latentc.ir.core import Value
from latentc.ir.types import TensorType

if TYPE_CHECKING:
    from latentc.ir.builder import Builder


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

    def _with(self, op: str, *operands: Any) -> Var:
        out: Var = self.b.op(op, *operands)
        return out

    def __add__(self, other: Any) -> Var:
        return self._with("add", self, other)

    def __radd__(self, other: Any) -> Var:
        return self._with("add", other, self)

    def __sub__(self, other: Any) -> Var:
        return self._with("sub", self, other)

    def __rsub__(self, other: Any) -> Var:
        return self._with("sub", other, self)

    def __mul__(self, other: Any) -> Var:
        return self._with("mul", self, other)

    def __rmul__(self, other: Any) -> Var:
        return self._with("mul", other, self)

    def __truediv__(self, other: Any) -> Var:
        return self._with("div", self, other)

    def __rtruediv__(self, other: Any) -> Var:
        return self._with("div", other, self)

    def __neg__(self) -> Var:
        return self._with("neg", self)

    def __lt__(self, other: Any) -> Var:
        return self._with("less", self, other)

    def __le__(self, other: Any) -> Var:
        return self._with("less_equal", self, other)

    def __gt__(self, other: Any) -> Var:
        return self._with("greater", self, other)


def as_tuple(outputs: Var | tuple[Var, ...]) -> tuple[Var, ...]:
    """The outputs of an appended node as a tuple, even if there is one only."""
    return outputs if isinstance(outputs, tuple) else (outputs,)
