"""A bert over a short sequence of tokens behind the class: TiTok's generator.

Symbols: B batch, T tokens of a sample, V vocabulary, D width, n tokens of the condition.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.condition import Pair
from latentc.components.networks._token_embedding import Embedding, Readout
from latentc.components.networks.bert import Bert
from latentc.components.parts import Norm
from latentc.ir.builder import Builder, Var, f32


class SequenceEmbedding(Embedding):
    """A table of the tokens, then the mask, then the classes."""

    kind: Literal["table"] = Field("table", description="a learned table")
    normalised: bool = Field(True, description="a norm of the embedded tokens (BERT); false: none (U-ViT)")
    segments: int = Field(
        0, ge=0, le=64, description="rows of the segment table, of which every token gets the first (BERT: 2)"
    )

    def null(self, base: int) -> int:
        return base

    def given(self, b: Builder, idx: Var, pairs: Sequence[Pair], vocabulary: Any) -> tuple[list[Var], list[Pair]]:
        return super().given(b, idx, pairs, vocabulary + 1)

    def placed(self, b: Builder, x: Var, pairs: Sequence[Pair], total: Any) -> tuple[Var, Var]:
        x, positions = super().placed(b, x, pairs, total)
        if not self.segments:
            return x, positions
        table = b.param("segment_embed", f32(self.segments, x.shape[2]), "normal", std=0.02)
        first = b.reshape(b.slice(table, axis=0, start=0, stop=1), shape=(1, 1, x.shape[2]), out="segment")
        return x, b.add(positions, first, out="positions")

    def normed(self, b: Builder, norm: Norm, x: Var) -> Var:
        return super().normed(b, norm, x) if self.normalised else x


class LinearReadout(Readout):
    """A linear layer."""

    kind: Literal["linear"] = Field("linear", description="a linear layer")
    detached: Literal[False] = Field(False, description="always false: no table is tied to the logits")
    approximate: Literal["none"] = Field("none", description="always none: there is no GELU")
    norm: None = Field(None, description="always null: there is no norm")

    def head(self, b: Builder, norm: Norm, init: str, x: Var, width: Any) -> Var:
        return x


class TitokBert(Bert):
    """A bert whose logits are a linear map of its last block's output (TiTok, Yu et al. 2024, arXiv:2406.07550).

    Classes are rows of the tokens' table after the mask. `long_skips` make it the authors' U-ViT.
    """

    kind: Literal["titok_bert"]  # type: ignore[assignment]
    splits: Literal[1] = Field(1, description="always 1: tokens are not split")
    embedding: SequenceEmbedding = Field(SequenceEmbedding(), description="embedding of tokens and condition")
    readout: LinearReadout = Field(LinearReadout(), description="output layer that computes the logits")
    decoder: None = Field(None, description="always null: there is no decoder")
    EXAMPLE: ClassVar[dict[str, Any]] = {
        **Bert.EXAMPLE,
        "kind": "titok_bert",
        "embedding": {"labels": 11, "segments": 2},
    }
