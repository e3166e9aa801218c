"""An array that a network takes as it is: a spectrogram, a low-resolution signal."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from latentc.components.condition import Form
from latentc.components.conditions._arrays import ArrayCondition


class ArrayGiven(ArrayCondition):
    """An array of any rank, such as a mel spectrogram, that the network takes directly."""

    kind: Literal["array"]
    FORMS: ClassVar[tuple[Form, ...]] = ("array",)
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "array"}
