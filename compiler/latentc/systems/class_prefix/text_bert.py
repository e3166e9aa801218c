"""A BERT of texts: its vocabulary has the mask, the start token and the names of the classes.

Symbols: B batch, T tokens of a sample, D width, n tokens before those of the sample.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.condition import Condition, Entry, Pair
from latentc.components.networks._class_names import ClassTokens, longest, named, problems_of_names, rows_of
from latentc.components.networks._token_embedding import Embedding
from latentc.components.networks.bert import Bert
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import Builder, Var, f32


class TextEmbedding(Embedding):
    """BERT's: tokens, segments and positions, the class by its name (Devlin et al. 2018, arXiv:1810.04805)."""

    kind: Literal["table"] = Field("table", description="a learned table")
    mask: int | None = Field(
        None, ge=0, le=16_777_215, description="token used as the mask; null: a row of the table after all others"
    )
    start: int | None = Field(None, ge=0, le=16_777_215, description="start token of every sequence; null: none")
    class_tokens: ClassTokens | None = Field(
        None, description="name of each class as text or tokens, all of as many tokens; null: as `labels` says"
    )
    places: int | None = Field(
        None, gt=0, le=1_048_576, description="rows of the position table; null: as many as there are tokens"
    )
    segments: int = Field(
        0, ge=0, le=64, description="rows of the segment table, of which every token gets the first (BERT: 2)"
    )
    class_segments: bool = Field(
        False,
        description="the class is the segment of every token, in place of a token in front (CBERT, Wu et al. 2018, "
        "arXiv:1812.06705)",
    )

    def null(self, base: int) -> int:
        return super().null(base) if self.mask is None else self.mask

    def rows(self, base: Any, labels: Any) -> Any:
        return super().rows(base, labels) if self.mask is None else base + labels

    def position_rows(self, total: int) -> int:
        return self.places or total

    def first(self, conditions: Mapping[str, Condition]) -> int:
        rows, start = rows_of(self.class_tokens), int(self.start is not None)
        if self.class_segments:
            return start
        if rows is not None and conditions:
            return start + (longest(rows) if self.condition == "first" else 0)
        return start + super().first(conditions)

    def given(self, b: Builder, idx: Var, pairs: Sequence[Pair], vocabulary: Any) -> tuple[list[Var], list[Pair]]:
        start = [] if self.start is None else [b.full(idx, shape=(1,), value=self.start, dtype="i64", out="start")]
        names = rows_of(self.class_tokens)
        if self.class_segments:
            return start, []
        if names is not None and pairs:
            ((_, (y,)),) = pairs
            return [*start, named(b, names, y)[0]], []
        ids, others = super().given(b, idx, pairs, vocabulary)
        return [*start, *ids], others

    def placed(self, b: Builder, x: Var, pairs: Sequence[Pair], total: Any) -> tuple[Var, Var]:
        width = x.shape[2]
        if self.places is None:
            x, positions = super().placed(b, x, pairs, total)
        else:
            places = b.param("pos_embed", f32(self.places, width), "normal", std=0.02)
            positions = b.reshape(
                b.slice(places, axis=0, start=0, stop=total), shape=(1, total, width), out="positions"
            )
        if not self.segments:
            return x, positions
        table = b.param("segment_embed", f32(self.segments, width), "normal", std=0.02)
        if not self.class_segments:
            first = b.slice(table, axis=0, start=0, stop=1, out="segment")
            return x, b.add(positions, b.reshape(first, shape=(1, 1, width)), out="positions")
        ((_, (y,)),) = pairs
        segment = b.reshape(b.embedding(table, y), shape=(x.shape[0], 1, width), out="segment")
        return b.add(x, segment, out="x"), positions

    def problems_of_data(self, vocabulary: int, length: int, entries: Sequence[Entry]) -> Iterator[Problem]:
        rows = rows_of(self.class_tokens)
        yield from problems_of_names(rows, vocabulary, entries, False)
        if rows is not None and len(entries) > 1:
            message = "the names of the classes stand for the only condition"
            yield Problem(("class_tokens",), message, "list it in `conditions`")
        if self.class_segments:
            yield from self._problems_of_segments(entries)
        for name, token in (("mask", self.mask), ("start", self.start)):
            if token is not None and token >= vocabulary:
                message = f"token {token} is out of range: the data has tokens 0 to {vocabulary - 1}"
                yield Problem((name,), message, "use one of these, or leave it out")
        if rows is not None and self.labels:
            message = "`labels` already defines how classes are embedded"
            yield Problem(("class_tokens",), message, "leave `class_tokens` out")
        if self.places is not None and length > self.places:
            message = f"sequences have {length} positions, but `places` is {self.places}"
            yield Problem(("places",), message, f"use at least {length}, or leave it out")

    def _problems_of_segments(self, entries: Sequence[Entry]) -> Iterator[Problem]:
        values = entries[0].ports[0].values if len(entries) == 1 else None
        if values is None or entries[0].ports[0].type.rank != 1:
            message = "segments are chosen by the class, so the only condition must be a class label"
            yield Problem(("class_segments",), message, "list it in `conditions`")
        elif values > self.segments:
            message = f"condition `{entries[0].name}` has {values} values, but there are {self.segments} segments"
            yield Problem(("segments",), message, f"use {values} segments")
        if self.class_tokens is not None or self.labels:
            message = "the class is given as a segment, so `labels` and `class_tokens` have no effect"
            yield Problem(("class_segments",), message, "leave them out")


class TextBert(Bert):
    """A bert whose mask, start and names of classes are tokens of its vocabulary."""

    kind: Literal["text_bert"]  # type: ignore[assignment]
    embedding: TextEmbedding = Field(TextEmbedding(), description="embedding of tokens and condition")
    EXAMPLE: ClassVar[dict[str, Any]] = {**Bert.EXAMPLE, "kind": "text_bert", "embedding": {"segments": 2}}

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from super().problems(spec)
        if self.splits > 1:
            yield Problem(("splits",), "`splits` gives tokens several tables, but a text has one", "leave it out")
        if self.decoder is not None:
            yield Problem(("decoder",), "a `text_bert` has an encoder alone", "leave it out, or use `bert`")
