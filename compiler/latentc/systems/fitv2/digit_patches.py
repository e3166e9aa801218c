"""Handwritten digits of several sizes, as padded sequences of patches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field as Option

from latentc.components.dataset import Data
from latentc.components.fields import Field
from latentc.components.parts import Problem, Spec

Side = Annotated[int, Option(gt=0, le=64)]


class DigitPatches(Data):
    """scikit-learn's digits, each resized to every one of `sizes`, as sequences of patches of 2 × 2 pixels in [-1, 1].

    Fields: `x` [4, length] has the patches row by row, each as [row, column], then zeros as padding; `size` [2] has the
    rows and columns of patches; `y` is the label.
    """

    kind: Literal["digit_patches"]
    classes_: Literal[10] = Option(10, alias="classes", description="always 10")
    sizes: tuple[tuple[Side, Side], ...] = Option(
        ((4, 4), (3, 4), (4, 3), (3, 5), (5, 3)),
        min_length=1,
        max_length=64,
        description="rows and columns of the images, in patches; [4, 4] is the digits' own size",
    )
    length: int = Option(16, gt=0, le=4_096, description="patches of a sequence with its padding")
    part: Literal["train", "test", "all"] = Option(
        "train", description="the training half of a fixed permutation, the other half, or all"
    )
    first_stage: None = Option(None, description="always null: digits need none")
    requires: ClassVar[tuple[str, ...]] = ("scikit-learn>=1.4",)
    HOLDS: ClassVar[str] = "sequences of patches `x`, sizes `size` and labels `y`"
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "digit_patches"}

    @property
    def shape(self) -> tuple[int, ...] | None:
        return super().shape or (4, self.length)

    @property
    def fields(self) -> dict[str, Field]:
        """`x`, `size` and `y`."""
        return {"size": Field(shape=(2,)), **super().fields}

    @classmethod
    def provides(cls, name: str, field: Field, fields: Mapping[str, Field], encoded: bool) -> bool:
        if name == "x":
            return len(field.shape) == 2 and field.shape[0] == 4
        return field.is_label and field.classes == 10 if name == "y" else name == "size" and field.shape == (2,)

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from super().problems(spec)
        for i, (rows, columns) in enumerate(self.sizes):
            if rows * columns > self.length:
                message = f"{rows} by {columns} patches are more than {self.length}"
                yield Problem(("sizes", i), message, "choose a smaller size, or a greater `length`")
        if self.shape != (4, self.length):
            message = f"the sequences have the shape [4, {self.length}]"
            yield Problem(("shape",), message, "leave it out, and set `length`")

    def held_out(self) -> DigitPatches:
        """The half that training does not see, if it sees one half."""
        return self.model_copy(update={"part": "test"}) if self.part == "train" else self
