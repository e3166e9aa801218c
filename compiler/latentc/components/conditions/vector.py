"""A vector of numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.condition import Form
from latentc.components.conditions.array import NumbersCondition
from latentc.components.parts import Init, dense
from latentc.ir.builder import Builder, Var


class Vector(NumbersCondition):
    """A vector per sample, embedded by a linear layer, such as features of another model, augmentation parameters or a
    score.
    """

    kind: Literal["vector"]
    bias: bool = Field(True, description="bias of the linear layer")
    weights: Init = Field(
        "normal", description="initialisation of the linear layer; `magnitude_preserving`: rows of unit length, no bias"
    )
    FORMS: ClassVar[tuple[Form, ...]] = ("vector", "tokens", "array")
    null_embedding: Literal["zeros", "vector", "given"] = Field(
        "zeros",
        description="numbers that replace dropped ones: zeros, a learned vector, or those that data and requests give "
        "as `NAME_null`",
    )
    RANKS: ClassVar[tuple[int, ...]] = (1,)
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "vector"}

    def vector(
        self, b: Builder, prefix: str, name: str, operands: tuple[Var, ...], width: Any, sizes: Mapping[str, Any]
    ) -> Var:
        x = self.or_null(b, prefix, operands, name)
        return dense(b, prefix, x, width, self.bias, self.weights, out=name)
