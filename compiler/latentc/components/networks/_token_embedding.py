"""How tokens enter a network that predicts masked ones, and how their logits are read.

Symbols: B batch, T tokens of a sample, m digits of a token, V values of a digit, D width, n tokens of the condition.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from latentc.components import Closed, Component, OneOf
from latentc.components.condition import Condition, Entry, Pair, with_operands
from latentc.components.kit.tokens import bits_of
from latentc.components.parts import Norm, Problem, TokenNorm, dense
from latentc.ir.builder import Builder, Var, f32

Kind = Literal["table", "bits"]
Read = Literal["tied", "tied_by_place", "linear"]


class Embedding(Closed):
    """Embeds tokens by a table or by their bits, adds the condition and learned positions, and applies a norm."""

    kind: Kind = Field("table", description="a learned table, or a linear map of the bits (MaskBit)")
    condition: Literal["first", "last"] = Field("first", description="position of the condition's tokens")
    labels: int = Field(
        0,
        ge=0,
        le=1_000_000,
        description="rows of the table between those of the tokens and the mask: one per class, plus 1 for the null "
        "if it may be dropped (MaskGIT)",
    )
    shared: bool = Field(
        True,
        description="a class uses its row among the `labels`, if there are any; false: a separate embedding",
    )
    late: bool = Field(
        False,
        description="a condition that is not a row of the table is added after the positions and the norm (RCG's MAGE)",
    )
    condition_norm: bool = Field(
        False, description="with `late`: the condition has its own positions and norm before it is added (MaskGIT-r)"
    )
    norm: Annotated[Component | None, OneOf("blocks/norms", base=TokenNorm)] = Field(
        None, description="norm of the input; null: that of the blocks"
    )
    blank: int | None = Field(
        None, ge=0, le=1_000_000, description="index among the `labels` used without a condition; null: none"
    )

    def static(self) -> dict[str, int]:
        """The sizes that the emitted class is constructed with."""
        return {"labels": self.labels} if self.labels else {}

    def null(self, base: int) -> int:
        """The index that masks a token, of `base` tokens."""
        return base + self.labels

    def rows(self, base: Any, labels: Any) -> Any:
        """Rows of the table of `base` tokens and `labels`."""
        return base + labels + 1

    def position_rows(self, total: int) -> int:
        """Rows of the table of positions, for sequences of `total` tokens."""
        return total

    def first(self, conditions: Mapping[str, Condition]) -> int:
        """Number of tokens before those of the data."""
        if not conditions:
            return int(self.blank is not None)
        return len(conditions) if self.condition == "first" else 0

    def given(self, b: Builder, idx: Var, pairs: Sequence[Pair], vocabulary: Any) -> tuple[list[Var], list[Pair]]:
        """Rows i64[B, n] of the table beside those of the tokens, and the conditions that are embedded separately."""
        ids, others = list[Var](), list[Pair]()
        for entry, operands in pairs:
            port = entry.ports[0]
            if self.labels and self.shared and port.values is not None and port.type.rank == 1:
                ids.append(b.reshape(operands[0] + vocabulary, shape=(idx.shape[0], 1), out=port.name))
            else:
                others.append((entry, operands))
        if not pairs and self.blank is not None:
            blank = b.full(idx, shape=(1,), value=0, dtype="i64")
            ids.append(b.op("add", blank, vocabulary + self.blank, out="blank"))
        return ids, others

    def placed(self, b: Builder, x: Var, pairs: Sequence[Pair], total: Any) -> tuple[Var, Var]:
        """The tokens f32[B, T, D] of the data, and the positions f32[1, n + T, D] of all."""
        return x, b.param("pos_embed", f32(1, total, x.shape[2]), "normal", std=0.02)

    def normed(self, b: Builder, norm: Norm, x: Var) -> Var:
        """The embedded tokens x f32[B, n, D] as the first block takes them."""
        return norm.apply(b, "embedding_norm", x)

    def problems_of_data(self, vocabulary: int, length: int, entries: Sequence[Entry]) -> Iterator[Problem]:
        """Problems with data of so many tokens, in sequences of `length` with those of the conditions."""
        yield from ()

    def problems(self, values: int, splits: int, read: Read) -> Iterator[Problem]:
        """Contradictions, of `splits` digits of `values` each."""
        if self.kind == "bits":
            if values & (values - 1):
                message = f"{values} values are not a power of 2, so they cannot be written as bits"
                yield Problem(("embedding", "kind"), message, "use `kind: table`")
            if self.labels:
                yield Problem(
                    ("embedding", "labels"),
                    "with `kind: bits` there is no table that could have rows for classes",
                    "leave it out",
                )
            if read != "linear":
                yield Problem(
                    ("readout", "kind"), "with `kind: bits` there is no table to tie logits to", "use `kind: linear`"
                )
        if splits > 1 and self.labels:
            message = "classes are rows of the tokens' table, but `splits` gives tokens several"
            yield Problem(("embedding", "labels"), message, "leave it out")
        if self.condition_norm and not (self.late and self.condition == "first"):
            message = "`condition_norm` needs a condition that comes first and is added after the tokens' norm"
            yield Problem(("embedding", "condition_norm"), message, "set `late: true` and `condition: first`")
        if self.blank is not None and self.blank >= self.labels:
            yield Problem(
                ("embedding", "blank"), f"row {self.blank} is out of range: there are {self.labels} rows for classes"
            )


class Readout(Closed):
    """A linear layer, GELU and a norm, then logits."""

    kind: Read = Field(
        "tied",
        description="logits are products with the token table plus a bias per row; or per position and token, "
        "excluding the mask (`tied_by_place`, MaskBit's baseline); or a separate linear layer",
    )
    detached: bool = Field(False, description="no gradient flows into the table through tied logits (MAGE)")
    approximate: Literal["tanh", "none"] = Field("tanh", description="GELU with the tanh approximation, or exact")
    norm: Annotated[Component | None, OneOf("blocks/norms", base=TokenNorm)] = Field(
        None, description="norm of the head; null: that of the blocks"
    )

    def head(self, b: Builder, norm: Norm, init: str, x: Var, width: Any) -> Var:
        """Features f32[B, T, D] that logits are a linear map of."""
        own = self.norm if isinstance(self.norm, Norm) else norm
        h = b.gelu(dense(b, "head", x, width, True, init, out="h"), approximate=self.approximate, out="h")
        return own.apply(b, "head_norm", h)


def embedded(
    b: Builder,
    config: Embedding,
    norm: Norm,
    init: str,
    idx: Var,
    entries: tuple[Entry, ...],
    conditions: tuple[Var, ...],
    width: int,
    static: Mapping[str, Any],
    at: Var | None = None,
) -> tuple[Var, int, Any, list[Var]]:
    """(x f32[B, n + T / m, D], tokens before those of the data, n + T / m, the tables of the digits).

    `at` i64[B, G]: the places of the tokens, if they are not all; x is f32[B, n + G, D] then.
    """
    batch, tokens, splits = idx.shape[0], static["tokens"], static.get("splits", 1)
    vocabulary = static["vocabulary"]
    digits = b.reshape(idx, shape=(batch, tokens, splits), out="digits") if int(splits) > 1 else idx
    tables: list[Var] = []
    pairs = list(with_operands(entries, conditions))
    ids, others = config.given(b, idx, pairs, vocabulary)
    cond = [entry.tokens(b, entry.prefix, own, width, static)[0] for entry, own in others]
    if config.kind == "bits":
        bits = bits_of(b, digits, int(vocabulary).bit_length() - 1)
        if int(splits) > 1:
            bits = b.reshape(bits, shape=(batch, tokens, splits * bits.shape[3]), out="bits")
        x = dense(b, "tok_emb", bits, width, True, init, out="x")
    elif int(splits) == 1:
        rows = config.rows(vocabulary, static.get("labels", 0))
        tables.append(b.param("tok_emb.weight", f32(rows, width), "normal", std=0.02))
        digits = b.concat(*ids, digits, axis=1, out="idx") if ids and config.condition == "first" else digits
        digits = b.concat(digits, *ids, axis=1, out="idx") if ids and config.condition == "last" else digits
        x = b.embedding(tables[0], digits, out="x")
    else:
        parts = b.split(digits, axis=2, sizes=(1,) * int(splits), out="digit")
        x = None
        for i, part in enumerate(parts):
            tables.append(b.param(f"tok_emb.{i}.weight", f32(vocabulary + 1, width), "normal", std=0.02))
            row = b.embedding(tables[i], b.reshape(part, shape=(batch, tokens)), out="x")
            x = row if x is None else b.add(x, row, out="x")
    assert x is not None

    def joined(x: Var) -> Var:
        return b.concat(*((*cond, x) if config.condition == "first" else (x, *cond)), axis=1, out="x")

    count = sum(int(t.shape[1]) for t in (*ids, *cond))
    total = tokens + count if count else tokens
    before = count if config.condition == "first" else 0
    x, positions = config.placed(b, x, pairs, total)
    table = positions
    late = bool(cond) and config.late
    norm = config.norm if isinstance(config.norm, Norm) else norm
    if late:
        start = before - sum(int(t.shape[1]) for t in ids) if before else 0
        if config.condition_norm:
            own = b.slice(positions, axis=1, start=0, stop=start, out="own")
            first = cond[0] if len(cond) == 1 else b.concat(*cond, axis=1, out="cond")
            cond = [norm.apply(b, "condition_norm", b.add(first, own, out="cond"))]
        if at is None:
            positions = b.slice(positions, axis=1, start=start, stop=start + x.shape[1], out="positions")
    else:
        start = 0
    if at is not None:
        positions = placed(b, table, at, before, tokens, start, before + tokens if late else total)
    x = joined(x) if cond and not late else x
    x = config.normed(b, norm, x + positions)
    return joined(x) if late else x, before, total, tables


def placed(b: Builder, table: Var, at: Var, before: int, tokens: Any, start: int, stop: Any) -> Var:
    """f32[B, …, D]: rows `start` to `stop` of positions [1, n + T, D], of those of the data only the ones `at` [B, G].

    `before`: rows before those of the data, which are `tokens`.
    """
    width = table.shape[2]
    rows = b.reshape(table, shape=(table.shape[1], width))
    data = b.embedding(rows, b.op("add", at, before, out="place") if before else at, out="positions")

    def between(first: Any, last: Any) -> list[Var]:
        if int(first) == int(last):
            return []
        own = b.slice(table, axis=1, start=first, stop=last, out="own")
        return [b.broadcast_to(own, data, shape=(at.shape[0], last - first, width))]

    parts = [*between(start, before), data, *between(before + tokens, stop)]
    return b.concat(*parts, axis=1, out="positions") if len(parts) > 1 else data


def logits(
    b: Builder,
    config: Readout,
    norm: Norm,
    init: str,
    x: Var,
    tables: list[Var],
    tokens: Any,
    width: int,
    static: Mapping[str, Any],
) -> Var:
    """f32[B, T, V or more]: the logits of every digit, from features x f32[B, T / m, D of the last block]."""
    batch, splits, vocabulary = x.shape[0], static.get("splits", 1), static["vocabulary"]
    h = config.head(b, norm, init, x, width)
    if config.kind == "linear":
        y = dense(b, "output", h, splits * vocabulary, True, init, out="logits")
        return b.reshape(y, shape=(batch, tokens, vocabulary), out="logits") if int(splits) > 1 else y
    made: list[Var] = []
    for i, table in enumerate(tables):
        name = f"head_bias.{i}" if int(splits) > 1 else "head_bias"
        table = b.stop_gradient(table, out="table") if config.detached else table
        if config.kind == "tied":
            made.append(b.linear(h, table, b.param(name, f32(table.shape[0]), "zeros"), out="logits"))
        else:
            table = b.slice(table, axis=0, start=0, stop=vocabulary, out="table")
            bias = b.param(name, f32(static["tokens"], vocabulary), "zeros")
            made.append(b.add(b.linear(h, table), bias, out="logits"))
    if int(splits) == 1:
        return made[0]
    rows = made[0].shape[2]
    parts = [b.reshape(y, shape=(batch, static["tokens"], 1, rows)) for y in made]
    return b.reshape(b.concat(*parts, axis=2), shape=(batch, tokens, rows), out="logits")
