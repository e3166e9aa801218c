"""The conditions of a token_transformer, whose tokens stand before those of the sample.

Symbols: B batch, n tokens of conditions, N tokens with those behind them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from latentc.components.contract import Port
from latentc.components.parts import Problem
from latentc.ir.builder import Builder, Var


def problems_of_prefix(told: Mapping[str, tuple[Port, ...]], shared: bool, vocabulary: int) -> Iterator[Problem]:
    """What is wrong with the operands of the conditions; `shared`: they are rows of the tokens' table."""
    if not told:
        message = "a token_transformer begins with a condition, but here it takes none"
        yield Problem((), message, "add `conditioning.class: {kind: label}`")
    if not shared:
        for name, ports in told.items():
            if len(ports) == 1 and ports[0].type.dtype == "i64" and ports[0].type.rank == 2:
                message = f"condition `{name}` holds token numbers, but a token_transformer has no table for them"
                yield Problem(("shared",), message, "set `shared: true`")
        if len(told) > 1:
            words = ", ".join(f"`{name}`" for name in told)
            message = f"a token_transformer begins with a single condition, but takes {words}"
            yield Problem((), message, "list one of them in `conditions`, or set `shared: true` if they are tokens")
        return
    for name, ports in told.items():
        if len(ports) != 1 or ports[0].type.dtype != "i64":
            message = (
                f"`shared` makes conditions rows of the tokens' table, but condition `{name}` is not a class or token"
            )
            yield Problem(("shared",), message, "leave `shared` out")
        elif (ports[0].values or 0) > vocabulary:
            message = f"condition `{name}` has {ports[0].values} values, but the table has {vocabulary} rows"
            yield Problem(("shared",), message, "leave `shared` out")


def prefix_length(ports: Sequence[Port]) -> int:
    """Tokens before those of the sample (n), of the first port of each condition."""
    types = [port.type for port in ports]
    sequences = [of.rank == 3 or (of.rank == 2 and of.dtype == "i64") for of in types]
    return sum(int(of.shape[1]) if several else 1 for of, several in zip(types, sequences, strict=True)) or 1  # type: ignore[arg-type, misc]


def all_counts(b: Builder, counts: Var, tokens: Any, out: str = "") -> Var:
    """bool[B, N]: which of N tokens count, of those of conditions bool[B, n]; those behind them all do."""
    rest = int(tokens) - int(counts.shape[1])
    counts = b.pad(b.cast(counts, to="f32"), axis=1, before=0, after=rest, value=1.0)
    return b.greater(counts, 0.5, out=out)  # type: ignore[no-any-return]


def visible(b: Builder, counts: Var, tokens: Any) -> Var:
    """bool[B, 1, N, N]: each of N tokens sees those that count, and itself; `counts` bool[B, n] is of the first n."""
    if int(tokens) > int(counts.shape[1]):
        counts = all_counts(b, counts, tokens, "counts")
    counts = b.reshape(counts, shape=(counts.shape[0], 1, 1, tokens))
    place = b.arange(tokens)
    itself = b.equal(b.reshape(place, shape=(tokens, 1)), b.reshape(place, shape=(1, tokens)), out="itself")
    return b.logical_or(counts, itself, out="visible")  # type: ignore[no-any-return]


__all__ = ["all_counts", "prefix_length", "problems_of_prefix", "visible"]
