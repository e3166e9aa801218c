"""A text whose padding the network sees."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.conditions.encoded_text import EncodedText
from latentc.components.parts import Spec
from latentc_runtime.sources import Condition as Requested


class PaddedText(EncodedText):
    """Features of tokens that are filled up with `pad`, as BERT's are, all of which count (Rombach et al. 2022).

    Data and requests give tokens: texts would be filled up with the token that ends them, as CLIP's are.
    """

    kind: Literal["padded_text"]  # type: ignore[assignment]
    padding: Literal["none"] = Field("none", description="all tokens count")
    null_embedding: Literal["empty_text"] = Field("empty_text", description="features of a text without words")
    projection: Literal["none"] = Field("none", description="unchanged, for blocks that attend to any width")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "padded_text", "encoder": "text"}

    def requests(self, name: str, spec: Spec) -> tuple[Requested, ...]:
        plain = {"medium": "array", "tokenizer": None, "alphabet": None, "start": None, "end": None, "cleaning": None}
        return tuple(replace(one, **plain) for one in super().requests(name, spec))  # type: ignore[arg-type]

    def _fill(self, text: tuple[int, ...]) -> int:
        return self.pad
