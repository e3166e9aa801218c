"""An image or a segmentation map."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from latentc.components.condition import Form
from latentc.components.conditions.array import ArrayCondition
from latentc.components.contract import Port
from latentc.components.kit.labels import one_hot
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import Builder, Var, f32, i64
from latentc.ir.types import B
from latentc_runtime.sources import Condition as Requested


class Map(ArrayCondition):
    """An image [C, H, W], or a one-hot encoded label map [H, W], as channels concatenated to the state.

    Its height and width equal those of the state, or divide them; then its pixels are repeated.
    """

    kind: Literal["map"]
    FORMS: ClassVar[tuple[Form, ...]] = ("map", "array")
    RANKS: ClassVar[tuple[int, ...]] = (2, 3)
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "map"}

    def classes(self, name: str, spec: Spec) -> int:
        """Number of labels of a segmentation map; 0 for an image."""
        field = spec.data.fields.get(self.field or name)
        return (field.classes or 0) if field is not None else 0

    def problems_as(self, name: str, spec: Spec) -> Iterator[Problem]:
        yield from super().problems_as(name, spec)
        shape, state = self.shape(name, spec), spec.data.shape or ()
        if len(shape) not in self.RANKS or len(state) != 3:
            return
        if state[1] % shape[-2] or state[2] % shape[-1] or state[1] // shape[-2] != state[2] // shape[-1]:
            message = (
                f"the sides of the map ({shape[-2]} by {shape[-1]}) do not divide those of the state "
                f"({state[1]} by {state[2]})"
            )
            yield Problem((), message, "resize the field, or choose another kind")
        if len(shape) == 2 and not self.classes(name, spec):
            field = self.field or name
            yield Problem(
                (),
                f"field `{field}` is a map of labels, but declares no `classes`",
                f"set `data.fields.{field}.classes`",
            )

    def ports(self, name: str, spec: Spec) -> tuple[Port, ...]:
        shape, classes = self.shape(name, spec), self.classes(name, spec)
        if len(shape) == 3:
            return (Port(name, f32(B, *shape), "condition"),)
        return (Port(name, i64(B, *shape), "condition", classes + self.nullable, classes if self.nullable else None),)

    def null_operands(self, b: Builder, name: str, operands: tuple[Var, ...], spec: Spec) -> tuple[Var, ...]:
        return (b.scalar(self.classes(name, spec) if operands[0].type.dtype == "i64" else 0.0, operands[0]),)

    def sizes(self, name: str, spec: Spec) -> dict[str, int]:
        classes = self.classes(name, spec)
        return {f"{name}_classes": classes} if classes else {}

    def map(self, b: Builder, name: str, operands: tuple[Var, ...], sizes: Any, side: Any) -> Var:
        (x,) = operands
        if x.type.dtype == "i64":
            x = one_hot(b, x, sizes[f"{name}_classes"], name)
        factor = int(side) // int(x.shape[2])
        return b.upsample_nearest(x, factor=factor, out=name) if factor > 1 else x

    def requests(self, name: str, spec: Spec) -> tuple[Requested, ...]:
        if not (classes := self.classes(name, spec)):
            return super().requests(name, spec)
        axes = spec.data.fields[self.field or name].axes
        return (Requested(name, "tokens", self.shape(name, spec), "i64", axes, vocabulary=classes),)
