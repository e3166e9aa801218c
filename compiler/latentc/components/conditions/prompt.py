"""A prompt: tokens that a language model continues, embedded by the model's own table."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from latentc.components.condition import Form
from latentc.components.conditions.tokens import TokenCondition


class Prompt(TokenCondition):
    """Tokens i64[B, L] and a mask of the valid ones; shorter prompts are padded at the end.

    The data has the mask in the field `FIELD_mask`. The null is a prompt of the token `pad`.
    """

    kind: Literal["prompt"]  # type: ignore[assignment]
    FORMS: ClassVar[tuple[Form, ...]] = ("array",)
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "prompt"}
