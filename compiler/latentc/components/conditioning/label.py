"""The class as an embedding."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.parts import ClassCondition


class Label(ClassCondition):
    """A learned vector for each class; in training a label is dropped now and then, so that guidance can do without."""

    kind: Literal["label"]
    dropout: float = Field(
        0.1, ge=0, lt=1, description="probability of training without the label; 0: no null class, so no guidance"
    )
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "label"}
