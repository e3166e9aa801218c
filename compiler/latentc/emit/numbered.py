"""Methods `add_0`, `add_1`, … whose texts differ only in numbers, as one method `add_k` of the number k."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

from latentc.emit.text import commas, free_name, layout

FEWEST = 3  # methods that are worth one with a table of their numbers
_NUMBER = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?(?:e-?\d+)?)(?![\w.])")
_BOUND = re.compile(r"[\[(,:=]\s*$")  # after these, a sum needs no parentheses


def families(names: Sequence[str]) -> list[tuple[str, list[int]]]:
    """(stem, places) of the names that end in numbers which follow each other."""
    found: list[tuple[str, list[int]]] = []
    before = ("", -1)
    for place, name in enumerate(names):
        stem, _, digits = name.rpartition("_")
        number = int(digits) if stem and digits.isdigit() else -1
        if number >= 0 and before == (stem, number - 1) and found and found[-1][0] == stem:
            found[-1][1].append(place)
        elif number >= 0:
            found.append((stem, [place]))
        before = (stem, number)
    return found


def runs(bodies: Sequence[Sequence[str]]) -> list[range]:
    """The longest runs of bodies that `joined` can write as one."""
    shapes = [tuple(_NUMBER.sub("0", line.partition("  # ")[0]) for line in body) for body in bodies]
    starts = [0, *(i + 1 for i, (one, other) in enumerate(pairwise(shapes)) if one != other), len(shapes)]
    return [range(start, stop) for start, stop in pairwise(starts)]


def joined(bodies: Sequence[Sequence[str]], first: int, reserve: int) -> list[str]:
    """One body for all, which reads the number `k` of each, counted from `first`; `reserve` as in `layout`."""
    # A keyword of a call may have the name of a local.
    words = set(re.findall(r"[A-Za-z_]\w*\b(?!=)", "\n".join(line for body in bodies for line in body)))
    columns: dict[tuple[str, ...], str] = {}  # numbers that are no sum of k and one of them: the name of each column
    lines: list[str] = []
    for row in zip(*bodies, strict=True):
        codes = [line.partition("  # ")[0] for line in row]
        comments = {line.partition("  # ")[2] for line in row}
        pieces = [_NUMBER.split(code) for code in codes]
        text = ""
        for i, piece in enumerate(pieces[0]):
            column = tuple(one[i] for one in pieces)
            if i % 2 == 0 or len(set(column)) == 1:
                text += piece
                continue
            after = pieces[0][i + 1]
            text += _sum(column, first, text, after) or columns.setdefault(
                column, free_name(_name(text, after), words | set(columns.values()))
            )
        indent = text[: len(text) - len(text.lstrip())]
        comment = comments.pop() if len(comments) == 1 else ""
        lines += layout(indent, text.lstrip(), comment, reserve)
    if columns:
        place = f"k - {first}" if first else "k"
        rows = [f"({commas(row)})" if len(columns) > 1 else row[0] for row in zip(*columns, strict=True)]
        table = layout("", f"{commas(columns.values())} = ({commas(rows)})[{place}]", "", reserve)
        first_statement = _after_docstring(lines)
        lines = [*lines[:first_statement], *table, *lines[first_statement:]]
    return lines


def _after_docstring(lines: Sequence[str]) -> int:
    """The number of lines of the docstring that they begin with."""
    if not lines or not lines[0].startswith('"""'):
        return 0
    ends = (i + 1 for i, line in enumerate(lines) if line.endswith('"""') and (i or len(line) > 3))
    return next(ends, 0)


def attribute_of(network: Any, method: str) -> tuple[str, tuple[int, ...]]:
    """(attribute, first arguments) of an emitted network's method `add_3`, which may be `add_k` of the number 3."""
    stem, _, digits = method.rpartition("_")
    numbered = not hasattr(network, method) and digits.isdigit()
    return (f"{stem}_k", (int(digits),)) if numbered else (method, ())


def method_of(network: Any, method: str) -> Callable[..., Any]:
    """A method of an emitted network by its name in the IR."""
    attribute, numbers = attribute_of(network, method)
    return partial(getattr(network, attribute), *numbers)


def _sum(column: Sequence[str], first: int, before: str, after: str) -> str | None:
    """`k + 1`, if the numbers are that for each k."""
    if not all(number.isdigit() for number in column):
        return None
    (offset, *others) = {int(number) - first - i for i, number in enumerate(column)}
    if others:
        return None
    if not offset:
        return "k"
    text = f"k {'+' if offset > 0 else '-'} {abs(offset)}"
    plain = _BOUND.search(before) and re.match(r"\s*[\]),:]", after)
    return text if plain else f"({text})"


def _name(before: str, after: str) -> str:
    """A name for a number by its place: a keyword, the bounds of a slice, an index."""
    if keyword := re.search(r"(\w+)=$", before):
        return keyword[1]
    if re.match(r"\s*:", after):
        return "start"
    if re.search(r":\s*$", before):
        return "stop"
    if re.search(r"\w\[$", before) and after.startswith("]"):
        return "i"
    return "side" if re.search(r"\(\d+, \($", before) else "n"
