"""Features of a caption that end right before the tokens of the image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.conditions.encoded_text import EncodedText
from latentc.components.conditions.features import Features, feature_embedder
from latentc.components.contract import Network
from latentc.components.kit.tokens import rows
from latentc.components.parts import Applies, Spec
from latentc.ir.builder import Builder, Var


class CaptionPrefix(Features):
    """Features f32[B, L, D] of a caption with a mask of the valid ones, which networks get at the end of the sequence,
    through two linear layers without biases. If the caption is dropped, as many learned features replace it.
    """

    kind: Literal["caption_prefix"]  # type: ignore[assignment]
    padding: Literal["masked"] = Field("masked", description="always masked")
    null_embedding: Literal["sequence"] = Field("sequence", description="always a learned sequence")
    projection: Literal["mlp"] = Field("mlp", description="always two linear layers")
    APPLIES: ClassVar[Applies] = {"untrained_null": ("dropout", (0,))}
    untrained_null: bool = Field(False, description="has a null although `dropout` is 0, as in LlamaGen's checkpoints")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "caption_prefix"}

    @property
    def nullable(self) -> bool:
        return super().nullable or self.untrained_null

    def operands(
        self, b: Builder, name: str, given: tuple[Var, ...], networks: Mapping[str, Network]
    ) -> tuple[Var, ...]:
        value, mask, *learned = super().operands(b, name, given, networks)
        source = _turned(b, mask)
        return rows(b, value, source, name), b.take_along(mask, source, axis=1, out="counts"), *learned

    def null_operands(self, b: Builder, name: str, operands: tuple[Var, ...], spec: Spec) -> tuple[Var, ...]:
        null, _, *learned = super().null_operands(b, name, operands, spec)
        return null, operands[1], *learned

    def projected(self, b: Builder, prefix: str, x: Var, width: Any, out: str) -> Var:
        return b.sub(prefix, feature_embedder(False), x, width=width, out=out)


class EncodedCaptionPrefix(CaptionPrefix, EncodedText):
    """A `caption_prefix` of features f32[B, L, D] that a network of the spec computes from tokens i64[B, L]."""

    kind: Literal["encoded_caption_prefix"]  # type: ignore[assignment]
    default: None = Field(None, description="requests pass the tokens")  # type: ignore[assignment]
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "encoded_caption_prefix", "encoder": "text"}


def _turned(b: Builder, mask: Var) -> Var:
    """i64[B, L]: the source of each place when every row is rotated until its last valid entry is the last."""
    length = int(mask.shape[1])
    place = b.arange(length)
    last = b.max(b.where(mask, place, -1), axes=(1,), keepdims=True, out="last")
    source = b.op("add", place, b.op("sub", last, length - 1), out="source")
    return b.where(b.less(source, 0), b.op("add", source, length), source, out="source")
