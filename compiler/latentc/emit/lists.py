"""Lists of modules that differ in a few arguments as comprehensions over these; lists of lists likewise."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from itertools import pairwise

from latentc.emit.text import commas, free_name, layout, split_commas

Calls = Sequence[Sequence[str]]
"""The constructor calls of each list of a list."""


def nested(lists: Calls, count: str, last: str, classes: Collection[str]) -> str | None:
    """Lists of `count` modules each, where arguments vary by the list, and the first or the last module has others.

    `last` is the index of the last module; calls of `classes` may leave out arguments. None for other lists.
    """
    try:
        table = _Table(lists, count, classes)
        call = table.call(lists, last)
        index = "i" if re.search(r"\bi\b", call) else "_"
        return table.text(f"nn.ModuleList({call} for {index} in range({count}))")
    except _Unlike:
        return None


def flat(modules: Sequence[str | Sequence[str]], classes: Collection[str]) -> str | None:
    """Modules, or lists of equally many, as rows of arguments; None if that would not be shorter.

    Modules in the same place are of one class.
    """
    lists = [[each] if isinstance(each, str) else each for each in modules]
    try:
        table = _Table(lists, "", classes)
        places = [table.call([[calls[i]] for calls in lists], "") for i in range(len(lists[0]))]
    except _Unlike:
        return None
    if len({isinstance(each, str) for each in modules}) > 1:
        return None
    text = table.text(places[0] if isinstance(modules[0], str) else _listed(places))
    explicit = _listed([each if isinstance(each, str) else _listed(each) for each in modules])
    return text if len(lists) > 2 and len(layout("", text, "", 16)) < len(layout("", explicit, "", 16)) else None


def _listed(calls: Sequence[str]) -> str:
    return f"nn.ModuleList([{commas(calls)}])"


class _Unlike(Exception):
    """Modules that no comprehension makes."""


class _Table:
    """Arguments that vary by the list: {values in each list: variable}."""

    def __init__(self, lists: Calls, count: str, classes: Collection[str]) -> None:
        if len(lists) < 2 or len({len(calls) for calls in lists}) > 1:
            raise _Unlike
        self.rows, self.classes = len(lists), classes
        words = (re.findall(r"[A-Za-z_]\w*\b(?!=)", text) for text in (count, *(c for calls in lists for c in calls)))
        self.taken = {"i", *(word for found in words for word in found)}
        self.columns: dict[tuple[str, ...], str] = {}

    def text(self, element: str) -> str:
        """The list of what `element` is in each row."""
        if not self.columns:
            return f"nn.ModuleList({element} for _ in range({self.rows}))"
        order = re.findall(r"\w+", element)
        columns, names = zip(*sorted(self.columns.items(), key=lambda item: order.index(item[1])), strict=True)
        rows = [f"({commas(row)})" if len(row) > 1 else row[0] for row in zip(*columns, strict=True)]
        return f"nn.ModuleList({element} for {commas(names)} in ({commas(rows)}))"

    def call(self, lists: Calls, last: str) -> str:
        """The call that makes each module `i` of each list."""
        parsed = [[_parsed(text) for text in calls] for calls in lists]
        keys: list[str] = []
        for given in (given for calls in parsed for _, given in calls):
            for before, key in pairwise(["", *given]):
                if key not in keys:  # after the argument that it follows here
                    keys.insert(keys.index(before) + 1 if before else 0, key)
        cells = {key: [[given.get(key, "") for _, given in calls] for calls in parsed] for key in keys}
        (function, *others) = {function for calls in parsed for function, _ in calls}
        missing = any("" in row for rows in cells.values() for row in rows)
        if others or (missing and function not in self.classes):
            raise _Unlike
        for rows in cells.values():
            default = "False" if any("True" in row for row in rows) else "None"
            rows[:] = [[text or default for text in row] for row in rows]
        plain = {key for key, rows in cells.items() if all(len(set(row)) == 1 for row in rows)}
        texts = {key: self._column([row[0] for row in cells[key]], key) for key in keys if key in plain}
        texts |= {key: self._varying(cells[key], key, last) for key in keys if key not in plain}
        return f"{function}({commas(texts[key] if key.isdigit() else f'{key}={texts[key]}' for key in keys)})"

    def _column(self, values: Sequence[str], key: str) -> str:
        """The text of what varies by the list."""
        column = tuple(values)
        if len(set(column)) == 1:
            return column[0]
        if column not in self.columns:
            for other, name in self.columns.items():
                ratio, *others = {_ratio(one, two) for one, two in zip(column, other, strict=True)}
                if ratio and not others:
                    return f"{ratio} * {name}"
            self.columns[column] = free_name("n" if key.isdigit() else key, self.taken)
            self.taken.add(self.columns[column])
        return self.columns[column]

    def _varying(self, rows: Calls, key: str, last: str) -> str:
        """The text of what also varies within a list, by its first or last module."""
        start, end = [row[0] for row in rows], [row[-1] for row in rows]
        if all(len(set(row[1:])) == 1 for row in rows):
            if all(text == "False" for text in end):
                return "i == 0" if set(start) == {"True"} else f"{self._column(start, key)} and i == 0"
            rest = self._column(end, key)
            return f"{self._column(start, key)} if i == 0 else {rest}"
        if all(len(set(row[:-1])) == 1 for row in rows):
            return f"{self._column(start, key)} if i < {last} else {self._column(end, key)}"
        if any(len(set(row[1:-1])) > 1 for row in rows):
            raise _Unlike
        rest = self._column([row[1] for row in rows], key)
        first, final = self._column(start, f"first_{key}"), self._column(end, f"last_{key}")
        return f"{first} if i == 0 else {rest} if i < {last} else {final}"


def _parsed(text: str) -> tuple[str, dict[str, str]]:
    """(function, {keyword or position: argument}) of a call."""
    function, _, inner = text.removesuffix(")").partition("(")
    parts = [re.match(r"(?:(\w+)=(?!=))?(.*)", argument) for argument in split_commas(inner)]
    return function, {part[1] or str(i): part[2] for i, part in enumerate(parts) if part}


def _ratio(one: str, other: str) -> int:
    """How many times a multiple of a size another is; 0 if it is no whole number of times, or no multiple."""
    found = [re.fullmatch(r"(?:(\d+) \* )?([A-Za-z_]\w*)", text) for text in (one, other)]
    if not found[0] or not found[1] or found[0][2] != found[1][2]:
        return 0
    times, of = int(found[0][1] or 1), int(found[1][1] or 1)
    return times // of if times % of == 0 else 0
