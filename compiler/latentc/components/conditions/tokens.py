"""Tokens that a network embeds itself, and the base classes of conditions that are sequences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.condition import Form, GivenInput, TokenShape
from latentc.components.conditions.array import ArrayCondition
from latentc.components.contract import Port
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import Builder, Var, f32, i64
from latentc.ir.types import B, TensorType
from latentc_runtime.sources import Condition as Requested


class SequenceCondition(ArrayCondition):
    """A sequence and, unless `padding` is none, a mask bool[B, L] of its valid tokens: the data's `FIELD_mask`."""

    padding: Literal["masked", "zeros", "none"]
    FORMS: ClassVar[tuple[Form, ...]] = ("tokens",)

    @property
    def has_mask(self) -> bool:
        """True if the data has a mask of valid tokens."""
        return self.padding != "none"

    def length(self, name: str, spec: Spec) -> int:
        """L, the tokens of a sample; 1 if the data has no such field."""
        return next(iter(self.shape(name, spec)), 1)

    def ports(self, name: str, spec: Spec) -> tuple[Port, ...]:
        mask = Port(f"{name}_mask", TensorType("bool", (B, self.length(name, spec))), "condition")
        return *super().ports(name, spec), *([mask] if self.has_mask else [])

    def inputs(self, name: str, spec: Spec) -> tuple[GivenInput, ...]:
        value, *others = self.ports(name, spec)
        field, masks = self.field or name, others[: int(self.has_mask)]
        given = GivenInput(value.name, value.type, field, name)
        return given, *(GivenInput(mask.name, mask.type, f"{field}_mask", name, "mask") for mask in masks)

    def nulls(self, b: Builder, operands: tuple[Var, ...], value: float = 0.0, whole: bool = False) -> tuple[Var, ...]:
        """Null operands: the scalar `value`; the mask bool[1, L], if there is one, of which the first token is valid or
        the `whole` sequence; and 0 for the others."""
        x, *others = operands
        null, length = b.scalar(value, x), int(x.shape[1])
        valid = [b.constant([[whole or i == 0 for i in range(length)]], out="first")] if self.has_mask else []
        return null, *valid, *(b.scalar(0.0, given) for given in others[len(valid) :])

    def requests(self, name: str, spec: Spec) -> tuple[Requested, ...]:
        (numbers,) = super().requests(name, spec)
        return (replace(numbers, mask=self.has_mask),)

    def token_shape(self, name: str, spec: Spec) -> TokenShape:
        return TokenShape(self.length(name, spec), self.padding == "masked")


class TokenSequence(SequenceCondition):
    """A sequence of tokens i64[B, L] in the data and in requests."""

    default: None = Field(None, description="requests pass the tokens")
    pad: int = Field(0, ge=0, le=16_777_215, description="padding token of shorter sequences")

    def vocabulary(self, name: str, spec: Spec) -> int:
        """Number of different tokens; 0 if the field does not say."""
        field = spec.data.fields.get(self.field or name)
        return (field.classes or 0) if field is not None else 0

    def problems_as(self, name: str, spec: Spec) -> Iterator[Problem]:
        yield from super().problems_as(name, spec)
        if (known := self.vocabulary(name, spec)) and self.pad >= known:
            message = f"token {self.pad} is out of range: the field has tokens 0 to {known - 1}"
            yield Problem(("pad",), message, "use one of these")

    def requests(self, name: str, spec: Spec) -> tuple[Requested, ...]:
        (numbers,), field = super().requests(name, spec), spec.data.fields.get(self.field or name)
        text = {} if field is None else field.text
        known, shape = self.vocabulary(name, spec), super().shape(name, spec)
        return (replace(numbers, form="tokens", shape=shape, dtype="i64", vocabulary=known, pad=self.pad, **text),)


class TokenCondition(TokenSequence):
    """Tokens i64[B, L], embedded by a table, and a mask of the valid ones, the data's field `FIELD_mask`.

    The null is the token `pad`, of which only the first is valid.
    """

    kind: Literal["tokens"]
    padding: Literal["masked", "none"] = Field(
        "masked", description="none: all tokens are valid, and the data has no mask (layouts of taming transformers)"
    )
    RANKS: ClassVar[tuple[int, ...]] = (1,)
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "tokens"}

    def problems_as(self, name: str, spec: Spec) -> Iterator[Problem]:
        yield from super().problems_as(name, spec)
        field = self.field or name
        if len(self.shape(name, spec)) == 1 and not self.vocabulary(name, spec):
            message = f"field `{field}` does not declare how many different tokens it holds"
            yield Problem((), message, f"set `data.fields.{field}.classes`")

    def ports(self, name: str, spec: Spec) -> tuple[Port, ...]:
        value, *masks = super().ports(name, spec)
        return Port(name, i64(*value.type.shape), "condition", self.vocabulary(name, spec) or None), *masks

    def null_operands(self, b: Builder, name: str, operands: tuple[Var, ...], spec: Spec) -> tuple[Var, ...]:
        return self.nulls(b, operands, self.pad)

    def sizes(self, name: str, spec: Spec) -> dict[str, int]:
        return {f"{name}_vocabulary": self.vocabulary(name, spec)}

    def tokens(
        self, b: Builder, prefix: str, name: str, operands: tuple[Var, ...], width: Any, sizes: Mapping[str, Any]
    ) -> tuple[Var, Var | None]:
        x, *mask = operands
        table = b.param(f"{prefix}.weight", f32(sizes[f"{name}_vocabulary"], width), "normal", std=0.02)
        return b.embedding(table, x, out=name), next(iter(mask), None)
