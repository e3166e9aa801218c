"""A text as features of its tokens and one vector, given and dropped together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.condition import GivenInput
from latentc.components.conditions.features import Features
from latentc.components.contract import Port
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import Builder, Var, f32
from latentc.ir.types import B
from latentc_runtime.sources import Condition as Requested


class TextAndPooled(Features):
    """Features f32[B, L, C] of a text's tokens and a vector f32[B, P] of all of it: the data's `FIELD_pooled`.

    Training drops both at once; data and requests also have both of an empty text, as `NAME_null` and
    `NAME_pooled_null`.
    """

    kind: Literal["text_and_pooled"]  # type: ignore[assignment]
    padding: Literal["none"] = Field("none", description="always none: every token counts, and there is no mask")
    null_embedding: Literal["given"] = Field(
        "given", description="always given: the features and the vector of an empty text replace dropped ones"
    )
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "text_and_pooled"}

    def problems_as(self, name: str, spec: Spec) -> Iterator[Problem]:
        yield from super().problems_as(name, spec)
        field = spec.data.fields.get(f"{self.field or name}_pooled")
        if field is not None and len(field.shape) != 1:
            message = (
                f"a vector of the text has one axis, but field `{self.field or name}_pooled` has {len(field.shape)}"
            )
            yield Problem((), message, "give it one")

    def pooled_size(self, name: str, spec: Spec) -> int:
        """P, the numbers of the vector; 1 if the data has no such field."""
        field = spec.data.fields.get(f"{self.field or name}_pooled")
        return next(iter(field.shape), 1) if field is not None else 1

    def ports(self, name: str, spec: Spec) -> tuple[Port, ...]:
        return *super().ports(name, spec), Port(f"{name}_pooled", f32(B, self.pooled_size(name, spec)), "condition")

    def inputs(self, name: str, spec: Spec) -> tuple[GivenInput, ...]:
        key, type = f"{name}_pooled", f32(B, self.pooled_size(name, spec))
        pooled = [
            GivenInput(key + end, type, f"{self.field or name}_pooled{end}", key + end, null_of=key if end else None)
            for end in self._ends
        ]
        return *super().inputs(name, spec), *pooled

    def requests(self, name: str, spec: Spec) -> tuple[Requested, ...]:
        shape = (self.pooled_size(name, spec),)
        pooled = (Requested(f"{name}_pooled{end}", "array", shape, "f32") for end in self._ends)
        return *super().requests(name, spec), *pooled

    @property
    def _ends(self) -> tuple[str, ...]:
        return ("", "_null") if self.reads_null else ("",)

    def tokens(
        self, b: Builder, prefix: str, name: str, operands: tuple[Var, ...], width: Any, sizes: Mapping[str, Any]
    ) -> tuple[Var, Var | None]:
        return super().tokens(b, prefix, name, operands[:1], width, sizes)
