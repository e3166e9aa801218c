"""A representation of an image by another model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.condition import Form, TokenShape
from latentc.components.conditions.vector import Vector
from latentc.components.parts import Spec
from latentc.ir.builder import Builder, Var


class Representation(Vector):
    """A vector per sample whose null is a learned vector."""

    kind: Literal["representation"]  # type: ignore[assignment]
    null_embedding: Literal["vector"] = Field("vector", description="always a learned vector")
    embedding: Literal["linear", "none"] = Field(
        "linear", description="how it enters: through a linear layer, or as one token that blocks attend to"
    )
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "representation"}

    @property
    def forms(self) -> tuple[Form, ...]:
        return self.FORMS if self.embedding == "linear" else ("tokens", "array")

    def token_shape(self, name: str, spec: Spec) -> TokenShape:
        shape = self.shape(name, spec)
        return TokenShape(width=shape[0] if self.embedding == "none" and shape else None)

    def tokens(
        self, b: Builder, prefix: str, name: str, operands: tuple[Var, ...], width: Any, sizes: Mapping[str, Any]
    ) -> tuple[Var, Var | None]:
        if self.embedding == "linear":
            return super().tokens(b, prefix, name, operands, width, sizes)
        x = self.or_null(b, prefix, operands, name)
        return b.reshape(x, shape=(x.shape[0], 1, x.shape[1]), out="tokens"), None
