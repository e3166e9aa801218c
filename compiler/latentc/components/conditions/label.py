"""A class label."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.condition import Condition, DrawnInput, Form, GivenInput, operand_name
from latentc.components.contract import Port
from latentc.components.parts import Applies, Init, Problem, Spec, dense, table
from latentc.ir.builder import Builder, Var, f32, i64
from latentc.ir.types import B, TensorType
from latentc_runtime.sources import Condition as Requested


class Label(Condition):
    """One of K classes, embedded by a table with one vector per class.

    As an index it is i64[B], with index K as the null; one-hot (or soft, a distribution over classes) it is f32[B, K],
    with zeros as the null.
    """

    kind: Literal["label"]
    dropout: float = Field(
        0.1, ge=0, lt=1, description="probability that training drops the label; 0: no null class, so no guidance"
    )
    APPLIES: ClassVar[Applies] = {"untrained_null": ("dropout", (0,))}
    untrained_null: bool = Field(
        False,
        description="add a null class although `dropout` is 0, as in checkpoints of MAR and VAR, whose tables always "
        "have one",
    )
    encoding: Literal["index", "one_hot"] = Field("index", description="how it is passed to networks")
    null_embedding: Literal["learned", "zeros", "mean"] = Field(
        "learned", description="embedding of the null class: a row of the table, zeros, or the mean of all rows"
    )
    weights: Init = Field(
        "normal",
        description="initialisation of the table: `normal` has standard deviation 0.02, `unit_normal` 1, `lecun` 1 / "
        "sqrt(width); `magnitude_preserving`: rows of unit length",
    )
    bias: bool = Field(False, description="add a learned vector to every embedding")
    unit_variance: bool = Field(False, description="multiply `one_hot` by sqrt(K), for every class (EDM)")
    FORMS: ClassVar[tuple[Form, ...]] = ("vector", "tokens")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "label"}

    @property
    def nullable(self) -> bool:
        return super().nullable or self.untrained_null

    def problems_as(self, name: str, spec: Spec) -> Iterator[Problem]:
        field = self.field or operand_name(name)
        if field == "y" and field not in spec.data.fields:
            message = f"condition `{name}` is a label, but the data has none"
            yield Problem((), message, "add `data.classes`, the number of classes")
            return
        yield from super().problems_as(name, spec)
        if self.unit_variance and self.encoding == "index":
            yield Problem(("unit_variance",), "`unit_variance` needs labels given one-hot", "add `encoding: one_hot`")
        if self.weights == "magnitude_preserving" and (self.bias or self.encoding == "index"):
            message = "magnitude-preserving weights need labels given one-hot, without a bias"
            yield Problem(("weights",), message, "set `encoding: one_hot` and `bias: false`")
        if field in spec.data.fields and not spec.data.fields[field].classes:
            message = f"data field `{field}` is not a label: it does not declare its number of classes"
            yield Problem((), message, f"set `data.fields.{field}.classes`")

    def rows(self, name: str, spec: Spec) -> int:
        """Rows of the table: one per class, and one for none if that is learned."""
        learned = self.encoding == "index" and self.null_embedding == "learned" and self.nullable
        return classes_of(name, self, spec) + learned

    def ports(self, name: str, spec: Spec) -> tuple[Port, ...]:
        classes = classes_of(name, self, spec)
        if self.encoding == "one_hot":
            return (Port(operand_name(name), f32(B, classes), "condition"),)
        null = classes if self.nullable else None
        return (Port(operand_name(name), i64(B), "condition", classes + self.nullable, null),)

    def inputs(self, name: str, spec: Spec) -> tuple[GivenInput | DrawnInput, ...]:
        (given,) = super().inputs(name, spec)
        assert isinstance(given, GivenInput)
        stored = i64(B) if self.encoding == "one_hot" else None  # data sets hold indices
        return (replace(given, stored=stored, read=lambda b, value: self.read(b, value, given.type)),)

    def read(self, b: Builder, value: Var, type: TensorType) -> Var:
        """The operand of this type of class numbers i64[B]."""
        if self.encoding != "one_hot":
            return value
        column = b.reshape(value, shape=(value.shape[0], 1))
        return b.cast(b.equal(column, b.arange(type.shape[1])), to="f32", out=value.value.name)  # type: ignore[arg-type]

    def requests(self, name: str, spec: Spec) -> tuple[Requested, ...]:
        classes, soft = classes_of(name, self, spec), self.encoding == "one_hot"
        shape = (classes,) if soft else ()
        dtype: Literal["f32", "i64"] = "f32" if soft else "i64"
        names = spec.data.fields[self.field or operand_name(name)].class_names
        names = names if isinstance(names, tuple) else ()
        return (Requested(name, "label", shape, dtype, classes=classes, encoding=self.encoding, names=names),)

    def null_operands(self, b: Builder, name: str, operands: tuple[Var, ...], spec: Spec) -> tuple[Var, ...]:
        (y,) = operands
        classes = classes_of(name, self, spec)
        if self.encoding == "index":
            return (b.scalar(classes, y),)
        return (b.scalar(1 / classes if self.null_embedding == "mean" else 0.0, y),)

    def sizes(self, name: str, spec: Spec) -> dict[str, int]:
        return {_argument(name): self.rows(name, spec)}

    def vector(
        self, b: Builder, prefix: str, name: str, operands: tuple[Var, ...], width: Any, sizes: Mapping[str, Any]
    ) -> Var:
        (y,) = operands
        classes, out = sizes[_argument(name)], y.value.name
        if self.weights == "magnitude_preserving":
            y = b.mul(y, b.sqrt(b.scalar(classes, y)), out=out) if self.unit_variance else y
            return dense(b, prefix, y, width, False, self.weights, out=out)
        rows = table(b, f"{prefix}.weight", classes, width, self.weights)
        if self.encoding == "one_hot":
            y = b.mul(y, b.sqrt(b.scalar(classes, y)), out=out) if self.unit_variance else y
            embedded = b.matmul(y, rows, out=out)
        else:
            if self.nullable and self.null_embedding != "learned":
                mean = b.mean(rows, axes=(0,), keepdims=True, out="none")
                rows = b.concat(rows, mean if self.null_embedding == "mean" else mean * 0.0, axis=0, out="table")
            embedded = b.embedding(rows, y, out=out)
        return b.add(embedded, b.param(f"{prefix}.bias", f32(width), "zeros"), out=out) if self.bias else embedded


def classes_of(name: str, label: Label, spec: Spec) -> int:
    """K, as the data field of the label says; 0 if it does not."""
    field = spec.data.fields.get(label.field or operand_name(name))
    return (field.classes or 0) if field is not None else 0


def _argument(condition: str) -> str:
    return "classes" if condition == "class" else f"{condition}_classes"
