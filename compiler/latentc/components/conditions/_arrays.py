"""Shared by conditions that are arrays: their field, their null value, and the default of a request."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from latentc.components.condition import Condition
from latentc.components.contract import Port
from latentc.components.parts import Problem
from latentc.ir.builder import Builder, Var, f32
from latentc.ir.types import B
from latentc_runtime.sources import Condition as Requested

if TYPE_CHECKING:
    from latentc.spec.schema import Spec


class ArrayCondition(Condition):
    """An array per sample, of the shape that its data field declares; zeros stand for none."""

    default: float | None = Field(
        None, description="default value of every element if a request does not pass it; null: required"
    )
    RANKS: ClassVar[tuple[int, ...]] = ()
    """Allowed ranks of its field; empty: any rank."""

    def shape(self, name: str, spec: Spec) -> tuple[int, ...]:
        """The shape of one sample."""
        field = spec.data.fields.get(self.field or name)
        return field.shape if field is not None else ()

    def problems_as(self, name: str, spec: Spec) -> Iterator[Problem]:
        yield from super().problems_as(name, spec)
        shape = self.shape(name, spec)
        if (self.field or name) in spec.data.fields and self.RANKS and len(shape) not in self.RANKS:
            wanted = " or ".join(str(n) for n in self.RANKS)
            message = (
                f"a `{self.kind}` has {wanted} axes per sample, but field `{self.field or name}` has "
                f"shape {list(shape)}"
            )
            yield Problem((), message, "choose another kind or another field")

    def ports(self, name: str, spec: Spec) -> tuple[Port, ...]:
        return (Port(name, f32(B, *self.shape(name, spec)), "condition"),)

    def null_operands(self, b: Builder, name: str, operands: tuple[Var, ...], spec: Spec) -> tuple[Var, ...]:
        return tuple(b.scalar(0.0, x) for x in operands)

    def requests(self, name: str, spec: Spec) -> tuple[Requested, ...]:
        field = spec.data.fields.get(self.field or name)
        axes = field.axes if field is not None else ()
        return (Requested(name, "array", self.shape(name, spec), "f32", axes, default=self.default),)


def asked(port: Port, spec: Spec) -> Requested:
    """The entry in a request for the data field that an encoder reads at `port`, or for images of the first stage."""
    field = spec.data.fields.get(port.name)
    shape = tuple(int(d) for d in port.type.shape[1:])  # type: ignore[arg-type]
    axes = field.axes if field is not None else ("channel", "height", "width")
    if field is not None and field.classes:
        return Requested(port.name, "tokens", shape, "i64", axes, vocabulary=field.classes, **field.text)
    return Requested(port.name, "array", shape, "f32", axes)


def present(b: Builder, like: Var) -> Var:
    """f32[B]: ones, which say that a condition with a learned null is given."""
    return b.full(like, shape=(), value=1.0, dtype="f32", out="told")  # type: ignore[no-any-return]


def or_learned(b: Builder, param: str, embedded: Var, given: Var) -> Var:
    """`embedded` f32[B, ..., D] if `given` f32[B] is 1, the learned vector `param` if it is 0."""
    column = b.reshape(given, shape=(given.shape[0], *(1,) * (embedded.type.rank - 1)), out="given")
    null = b.param(param, f32(embedded.shape[-1]), "normal", std=0.02)
    return b.op("add", embedded * column, null * (1.0 - column), out="embedded")  # type: ignore[no-any-return]
