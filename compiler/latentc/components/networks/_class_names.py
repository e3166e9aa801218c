"""Classes by the tokens of their names, which the table of the tokens embeds.

Symbols: B batch, L tokens of the longest name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Annotated

import numpy as np
from pydantic import Field

from latentc.components.backbone import public
from latentc.components.condition import Entry
from latentc.components.parts import Problem
from latentc.ir.builder import Builder, Var

Token = Annotated[int, Field(ge=0, le=16_777_215)]
Text = Annotated[str, Field(min_length=1, max_length=256)]
ClassTokens = tuple[Token | Text | tuple[Token, ...], ...]
"""One entry per class: a token, several, or a text, which a spec's tokenizer turns into tokens when it is read."""
Rows = tuple[tuple[int, ...], ...]


def rows_of(tokens: ClassTokens | None) -> Rows | None:
    """The tokens that stand for each class; None: classes have embeddings of their own."""
    return None if tokens is None else tuple((row,) if isinstance(row, int) else _tokens(row) for row in tokens)


def _tokens(row: str | tuple[int, ...]) -> tuple[int, ...]:
    if isinstance(row, str):
        raise TypeError(f"{row!r} is still text: the names of a spec are turned into tokens when it is read")
    return row


def with_tokens(tokens: ClassTokens, tokenize: Callable[[str], tuple[int, ...]]) -> ClassTokens:
    """The same with tokens in place of texts."""
    return tuple(tokenize(row) if isinstance(row, str) else row for row in tokens)


def longest(rows: Rows) -> int:
    """L, the number of tokens of the longest name."""
    return max(map(len, rows), default=1)


def problems_of_names(
    rows: Rows | None, vocabulary: int, entries: Sequence[Entry], ragged: bool = True
) -> Iterator[Problem]:
    """Problems of the tokens of classes; names have equally many unless `ragged`."""
    if rows is None:
        return
    if not rows or not all(rows):
        yield Problem(("class_tokens",), "a class has no tokens")
    elif not ragged and len({*map(len, rows)}) > 1:
        yield Problem(
            ("class_tokens",), "names of classes have different numbers of tokens", "use names with equally many tokens"
        )
    if any(not 0 <= token < vocabulary for row in rows for token in row):
        yield Problem(("class_tokens",), f"tokens are 0 to {vocabulary - 1}")
    for entry in entries:
        values, type = entry.ports[0].values, entry.ports[0].type
        if entry.form == "tokens" and (type.dtype != "i64" or type.rank != 1):
            message = f"`class_tokens` stand for a class given by its number, but `{entry.name}` is {public(type)}"
            yield Problem(("class_tokens",), message, "leave `class_tokens` out, or list other `conditions`")
        elif entry.form == "tokens" and values is not None and len(rows) != values:
            message = f"{len(rows)} classes have tokens, but `{entry.name}` has {values} values"
            yield Problem(
                ("class_tokens",),
                message,
                "give the tokens of each class, and of the null class if the class may be dropped",
            )


def named(b: Builder, rows: Rows, y: Var) -> tuple[Var, Var | None]:
    """i64[B, L], the tokens of the name of class y i64[B], and which of them count f32[B, L]; None: all."""
    length = longest(rows)
    # Shorter names are padded at the end.
    names = np.array([[*row, *[row[-1]] * (length - len(row))] for row in rows], np.int64)
    counts = np.array([[float(i < len(row)) for i in range(length)] for row in rows], np.float32)
    code = b.take(b.constant(names), y, axis=0, out="code")
    return code, None if counts.all() else b.take(b.constant(counts), y, axis=0, out="counts")
