"""Two classes of scikit-learn's handwritten digits, without pairs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field as Option

from latentc.components.dataset import Data
from latentc.components.fields import Field
from latentc.components.parts import Problem, Spec


class UnpairedDigits(Data):
    """Images of one of scikit-learn's digits as `x` and, at random, of another as `image`: 8 × 8 pixels in [-1, 1]."""

    kind: Literal["unpaired_digits"]
    source: int = Option(3, ge=0, le=9, description="the digit of the images `image`")
    target: int = Option(8, ge=0, le=9, description="the digit of the images `x`")
    part: Literal["train", "test", "all"] = Option(
        "train", description="the training half of a fixed permutation, the other half, or all"
    )
    first_stage: None = Option(None, description="always null: digits need none")
    judged_by: ClassVar[str] = "digits"
    requires: ClassVar[tuple[str, ...]] = ("scikit-learn>=1.4",)
    HOLDS: ClassVar[str] = "images `x` and `image` of 8 by 8 pixels"
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "unpaired_digits"}

    @property
    def shape(self) -> tuple[int, ...] | None:
        return super().shape or (1, 8, 8)

    @property
    def fields(self) -> dict[str, Field]:
        """`x` and `image`."""
        found = super().fields
        return {"image": found["x"], **found} if "x" in found else found

    @classmethod
    def provides(cls, name: str, field: Field, fields: Mapping[str, Field], encoded: bool) -> bool:
        return name in ("x", "image") and field.shape == (1, 8, 8)

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from super().problems(spec)
        if self.source == self.target:
            yield Problem(("source",), f"`source` and `target` are both {self.target}", "choose two digits")

    def held_out(self) -> UnpairedDigits:
        """The half that training does not see, if it sees one half."""
        return self.model_copy(update={"part": "test"}) if self.part == "train" else self
