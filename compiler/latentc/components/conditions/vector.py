"""A vector of numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from latentc.components.condition import Form, TokenShape
from latentc.components.conditions._arrays import ArrayCondition, or_learned, present
from latentc.components.contract import Network, Port
from latentc.components.parts import Init, Problem, dense
from latentc.ir.builder import Builder, Var, f32
from latentc.ir.types import B

if TYPE_CHECKING:
    from latentc.spec.schema import Spec


class Vector(ArrayCondition):
    """A vector per sample, embedded by a linear layer, such as features of another model, augmentation parameters or a
    score.
    """

    kind: Literal["vector"]
    null_embedding: Literal["zeros", "learned", "learned_input"] = Field(
        "zeros",
        description="null value: the zero vector, a learned embedding, or a learned input vector (RCG)",
    )
    embedding: Literal["linear", "none"] = Field(
        "linear", description="how it enters: through a linear layer, or as one token that blocks attend to"
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
        """Whether networks have a learned vector for the absent condition."""
        return self.nullable and self.null_embedding != "zeros"

    def ports(self, name: str, spec: Spec) -> tuple[Port, ...]:
        given = (Port(f"{name}_given", f32(B), "condition"),) if self.learned else ()
        return (*super().ports(name, spec), *given)

    def operands(
        self, b: Builder, name: str, given: tuple[Var, ...], networks: Mapping[str, Network]
    ) -> tuple[Var, ...]:
        return (*given, present(b, given[0])) if self.learned else given

    @property
    def forms(self) -> tuple[Form, ...]:
        return self.FORMS if self.embedding == "linear" else ("tokens", "array")

    def problems_as(self, name: str, spec: Spec) -> Iterator[Problem]:
        yield from super().problems_as(name, spec)
        if self.embedding == "none" and self.null_embedding == "learned":
            message = "the null value is a learned embedding, but the vector is not embedded"
            yield Problem(("null_embedding",), message, "use `learned_input`")

    def tokens(
        self, b: Builder, prefix: str, name: str, operands: tuple[Var, ...], width: Any, sizes: Mapping[str, Any]
    ) -> tuple[Var, Var | None]:
        if self.embedding == "linear":
            return super().tokens(b, prefix, name, operands, width, sizes)
        x, *given = operands
        x = or_learned(b, f"{prefix}.null", x, *given) if given else x
        return b.reshape(x, shape=(x.shape[0], 1, x.shape[1]), out="tokens"), None

    def token_shape(self, name: str, spec: Spec) -> TokenShape:
        shape = self.shape(name, spec)
        return TokenShape(width=shape[0] if self.embedding == "none" and shape else None)

    def vector(
        self, b: Builder, prefix: str, name: str, operands: tuple[Var, ...], width: Any, sizes: Mapping[str, Any]
    ) -> Var:
        x, *given = operands
        if given and self.null_embedding == "learned_input":
            x, given = or_learned(b, f"{prefix}.null", x, *given), []
        embedded = dense(b, prefix, x, width, self.bias, self.weights, out=name)
        return or_learned(b, f"{prefix}.null", embedded, *given) if given else embedded
