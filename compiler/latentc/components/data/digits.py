"""scikit-learn's handwritten digits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field as Option

from latentc.components.dataset import Data
from latentc.components.fields import Field, Tokens
from latentc.components.parts import Problem, Spec


class Digits(Data):
    """scikit-learn's handwritten digits: 1,797 images of 8 × 8 pixels with 17 grey levels.

    As images they are scaled to [-1, 1]; as tokens each pixel is one token, its grey level. Further fields are
    principal components: [C, h, w] the first C of each of h by w squares of an image, [C] those of the whole image,
    divided by the standard deviation over all values of the field.
    """

    kind: Literal["digits"]
    classes_: Literal[10] = Option(10, alias="classes", description="always 10")
    as_: Literal["images", "tokens"] = Option("images", alias="as", description="what the network models")
    shape_: tuple[Literal[1], Literal[8], Literal[8]] | None = Option(
        None, alias="shape", description="[1, 8, 8], set by `as`"
    )
    tokens_: Tokens | None = Option(None, alias="tokens", description="17 levels on an 8 × 8 grid, set by `as`")
    part: Literal["train", "test", "all"] = Option(
        "train", description="the training half (898 images of a fixed permutation), the other half, or all"
    )
    first_stage: None = Option(None, description="always null: digits need none")
    judged_by: ClassVar[str] = "digits"
    requires: ClassVar[tuple[str, ...]] = ("scikit-learn>=1.4",)
    adds_noise: ClassVar[bool] = True
    HOLDS: ClassVar[str] = "images `x`, or grey levels `tokens`, labels `y` and principal components"
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "digits"}

    @property
    def shape(self) -> tuple[int, ...] | None:
        return super().shape or ((1, 8, 8) if self.as_ == "images" else None)

    @property
    def tokens(self) -> Tokens | None:
        return super().tokens or (Tokens(vocabulary=17, grid=(8, 8)) if self.as_ == "tokens" else None)

    @classmethod
    def provides(cls, name: str, field: Field, fields: Mapping[str, Field], encoded: bool) -> bool:
        if name in ("x", "tokens"):
            return field.shape in ((1, 8, 8), (64,))
        return field.is_label and field.classes == 10 if name == "y" else field.dtype == "f32"

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from super().problems(spec)
        for name, field in self.fields_.items():
            if name in ("x", "y", "tokens") or field.classes is not None:
                continue
            rows, columns = (1, 1) if len(field.shape) == 1 else field.shape[-2:] if len(field.shape) == 3 else (0, 0)
            if not rows or not columns or 8 % rows or 8 % columns or field.shape[0] > 64 // (rows * columns):
                message = f"data field `{name}` of shape {list(field.shape)} cannot be computed from 8 by 8 pixels"
                yield Problem(
                    ("fields", name, "shape"),
                    message,
                    "give [C] or [C, h, w], with h and w of 1, 2, 4 or 8 and at most 64 numbers in all",
                )

    def held_out(self) -> Digits:
        """The half that training does not see, if it sees one half."""
        return self.model_copy(update={"part": "test"}) if self.part == "train" else self
