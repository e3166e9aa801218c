"""A vector of numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from latentc.components.condition import Form
from latentc.components.conditions._arrays import ArrayCondition, or_learned, present
from latentc.components.contract import Network, Port
from latentc.components.parts import Init, dense
from latentc.ir.builder import Builder, Var, f32
from latentc.ir.types import B

if TYPE_CHECKING:
    from latentc.spec.schema import Spec


class Vector(ArrayCondition):
    """A vector per sample, embedded by a linear layer, such as features of another model, augmentation parameters or a
    score.
    """

    kind: Literal["vector"]
    null_embedding: Literal["zeros", "learned"] = Field(
        "zeros", description="null value: the zero vector, or a learned embedding"
    )
    bias: bool = Field(True, description="bias of the linear layer")
    weights: Init = Field(
        "normal", description="initialisation of the linear layer; `magnitude_preserving`: rows of unit length, no bias"
    )
    FORMS: ClassVar[tuple[Form, ...]] = ("vector", "tokens", "array")
    RANKS: ClassVar[tuple[int, ...]] = (1,)
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "vector"}

    @property
    def learned(self) -> bool:
        """True if networks have a learned vector for the null."""
        return self.nullable and self.null_embedding != "zeros"

    def ports(self, name: str, spec: Spec) -> tuple[Port, ...]:
        given = (Port(f"{name}_given", f32(B), "condition"),) if self.learned else ()
        return (*super().ports(name, spec), *given)

    def operands(
        self, b: Builder, name: str, given: tuple[Var, ...], networks: Mapping[str, Network]
    ) -> tuple[Var, ...]:
        return (*given, present(b, given[0])) if self.learned else given

    def vector(
        self, b: Builder, prefix: str, name: str, operands: tuple[Var, ...], width: Any, sizes: Mapping[str, Any]
    ) -> Var:
        x, *given = operands
        embedded = dense(b, prefix, x, width, self.bias, self.weights, out=name)
        return or_learned(b, f"{prefix}.null", embedded, *given) if given else embedded
