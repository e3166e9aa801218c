"""An array that a network takes as it is, and the base classes of conditions that are arrays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.condition import Condition, Form, GivenInput
from latentc.components.contract import Network, Port
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import Builder, Var, f32
from latentc.ir.types import B
from latentc_runtime.sources import Condition as Requested


class ArrayCondition(Condition):
    """An array per sample, of the shape that its data field declares; its null is zeros."""

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


def request_of(port: Port, spec: Spec) -> Requested:
    """The entry in a request for the data field that an encoder reads at `port`, or for images of the first stage."""
    field = spec.data.fields.get(port.name)
    shape = tuple(int(d) for d in port.type.shape[1:])  # type: ignore[arg-type]
    axes = field.axes if field is not None else ("channel", "height", "width")
    if field is not None and field.classes:
        return Requested(port.name, "tokens", shape, "i64", axes, vocabulary=field.classes, **field.text)
    return Requested(port.name, "array", shape, "f32", axes)


class NumbersCondition(ArrayCondition):
    """Numbers whose null may be learned; networks then also take `NAME_given` f32[B], which is 1 if it is given.

    The null may also be given itself, as the data's field `FIELD_null` and in requests: a negative prompt.
    """

    null_embedding: Literal["zeros", "vector", "sequence", "empty_text", "given"]

    @property
    def learns_null(self) -> bool:
        """True if networks have a weight for the null."""
        return self.nullable and self.null_embedding in ("vector", "sequence")

    @property
    def reads_null(self) -> bool:
        """True if data and requests have the null."""
        return self.nullable and self.null_embedding == "given"

    def ports(self, name: str, spec: Spec) -> tuple[Port, ...]:
        return *super().ports(name, spec), *([Port(f"{name}_given", f32(B), "condition")] if self.learns_null else [])

    def inputs(self, name: str, spec: Spec) -> tuple[GivenInput, ...]:
        own = tuple(given for given in super().inputs(name, spec) if isinstance(given, GivenInput))
        if not self.reads_null:
            return own
        null, field, nulls = f"{name}_null", f"{self.field or name}_null", []
        for given in own:
            end = "_mask" if given.part == "mask" else ""
            nulls.append(replace(given, name=null + end, field=field + end, request=null, null_of=given.name))
        return *own, *nulls

    def requests(self, name: str, spec: Spec) -> tuple[Requested, ...]:
        own = super().requests(name, spec)
        return *own, *(replace(one, name=f"{name}_null") for one in own if self.reads_null)

    def operands(
        self, b: Builder, name: str, given: tuple[Var, ...], networks: Mapping[str, Network]
    ) -> tuple[Var, ...]:
        ones = [b.full(given[0], shape=(), value=1.0, dtype="f32", out=f"{name}_given")] if self.learns_null else []
        return *given, *ones

    def or_null(self, b: Builder, prefix: str, operands: Sequence[Var], out: str) -> Var:
        """The numbers f32[B, ...] of samples that have them; of the others the learned null, if there is one."""
        x, *given = operands
        if not given:
            return x
        shape = x.shape[-1:] if self.null_embedding == "vector" else x.shape[1:]
        null = b.param(f"{prefix}_null", f32(*shape), "normal", std=0.02)
        has = b.reshape(b.greater(given[0], 0.5), shape=(x.shape[0], *(1,) * (x.type.rank - 1)))
        return b.where(has, x, null, out=out)


class ArrayGiven(ArrayCondition):
    """An array of any rank, such as a mel spectrogram, that the network takes directly."""

    kind: Literal["array"]
    FORMS: ClassVar[tuple[Form, ...]] = ("array",)
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "array"}
