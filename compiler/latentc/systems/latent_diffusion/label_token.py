"""A class label as a token of its own width."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.condition import Form, TokenShape
from latentc.components.conditions.label import Label
from latentc.components.parts import Spec
from latentc.ir.builder import Builder, Var


class LabelToken(Label):
    """A class label as the one token of `width` channels that a U-Net's transformers attend to."""

    kind: Literal["label_token"]  # type: ignore[assignment]
    width: int = Field(512, gt=0, le=65_536, description="channels of the token")
    FORMS: ClassVar[tuple[Form, ...]] = ("tokens",)
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "label_token", "width": 8}

    def sizes(self, name: str, spec: Spec) -> dict[str, int]:
        return {**super().sizes(name, spec), f"{name}_width": self.width}

    def token_shape(self, name: str, spec: Spec) -> TokenShape:
        return TokenShape(width=self.width)

    def tokens(
        self, b: Builder, prefix: str, name: str, operands: tuple[Var, ...], width: Any, sizes: Mapping[str, Any]
    ) -> tuple[Var, Var | None]:
        return super().tokens(b, prefix, name, operands, sizes[f"{name}_width"], sizes)
