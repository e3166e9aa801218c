"""Lists of modules that differ in a few arguments as comprehensions over these; lists of lists likewise."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from itertools import pairwise

from latentc.emit.text import Call, commas, free_name, layout

Calls = Sequence[Sequence[Call]]
"""The constructor calls of each list of a list."""

_NAME = re.compile(r"[A-Za-z_]\w*")


def nested(lists: Calls, counts: Sequence[tuple[str, str]], classes: Collection[str]) -> str | None:
    """Lists of two or more modules, where arguments vary by the list, and the first or the last module has others.

    `counts` are the number of modules of each list and the index of its last; calls of `classes` may leave out
    arguments. None for other lists.
    """
    sizes = [count for count, _ in counts]
    try:
        table = _Table(lists, classes, sizes)
        count, last = counts[0]
        if len(set(counts)) > 1:
            count = table.column(sizes, _common(sizes))
            last = f"{count} - 1"
        made = table.call(lists, last)
        index = "i" if re.search(r"\bi\b", made) else "_"
        return table.text(f"nn.ModuleList({made} for {index} in range({count}))")
    except _Unlike:
        return None


def flat(modules: Sequence[Call | Sequence[Call]], classes: Collection[str]) -> str | None:
    """Modules, or lists of equally many, as rows of arguments; None if that would not be shorter.

    Modules in the same place are of one class.
    """
    lists = [[each] if isinstance(each, Call) else each for each in modules]
    alike = len({(isinstance(each, Call), len(calls)) for each, calls in zip(modules, lists, strict=True)}) == 1
    if not alike or (len(lists) == 2 and any([*a.given] != [*b.given] for a, b in zip(*lists, strict=True))):
        return None  # two that differ in more than values are clearer one by one
    try:
        table = _Table(lists, classes)
        places = [table.call([[calls[i]] for calls in lists], "") for i in range(len(lists[0]))]
    except _Unlike:
        return None
    text = table.text(places[0] if isinstance(modules[0], Call) else _listed(places))
    made = [each.code if isinstance(each, Call) else _listed([inner.code for inner in each]) for each in modules]
    return text if len(layout("", text, "", 16)) < len(layout("", _listed(made), "", 16)) else None


def _listed(calls: Sequence[str]) -> str:
    return f"nn.ModuleList([{commas(calls)}])"


def _common(sizes: Sequence[str]) -> str:
    """The last word of all names of sizes (`depth` of `stage_0_depth` and `stage_1_depth`), or `count`."""
    word, *others = {size.rpartition("_")[2] for size in sizes}
    return "count" if others or not word.isidentifier() else word


class _Unlike(Exception):
    """Modules that no comprehension makes."""


class _Table:
    """Arguments that vary by the list: {values in each list: variable}."""

    def __init__(self, lists: Calls, classes: Collection[str], counts: Sequence[str] = ()) -> None:
        if len(lists) < 2:
            raise _Unlike
        self.rows, self.classes = len(lists), classes
        calls = [made for calls in lists for made in calls]
        texts = (*counts, *(text for made in calls for text in (made.function, *made.given.values())))
        self.taken = {"i", *(word for text in texts for word in _NAME.findall(text))}
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
        calls = [made for each in lists for made in each]
        keys: list[int | str] = []
        for made in calls:
            for before, key in pairwise([None, *made.given]):
                if key is not None and key not in keys:  # after the argument that it follows here
                    keys.insert(0 if before is None else keys.index(before) + 1, key)
        cells = {key: [[made.given.get(key, "") for made in each] for each in lists] for key in keys}
        (function, *others) = {made.function for made in calls}
        missing = any("" in row for rows in cells.values() for row in rows)
        if others or (missing and function not in self.classes):
            raise _Unlike
        for rows in cells.values():
            default = "False" if any("True" in row for row in rows) else "None"
            rows[:] = [[text or default for text in row] for row in rows]
        plain = {key for key, rows in cells.items() if all(len(set(row)) == 1 for row in rows)}
        texts = {key: self.column([row[0] for row in cells[key]], _word(key)) for key in keys if key in plain}
        texts |= {key: self._varying(cells[key], _word(key), last) for key in keys if key not in plain}
        return Call(function, {key: texts[key] for key in keys}).code

    def column(self, values: Sequence[str], name: str) -> str:
        """The text of what varies by the list, as a variable of this name or like one."""
        column = tuple(values)
        if len(set(column)) == 1:
            return column[0]
        if column not in self.columns:
            for other, known in self.columns.items():
                ratio, *others = {_ratio(one, two) for one, two in zip(column, other, strict=True)}
                if ratio and not others:
                    return f"{ratio} * {known}"
            self.columns[column] = free_name(name, self.taken)
            self.taken.add(self.columns[column])
        return self.columns[column]

    def _varying(self, rows: Sequence[Sequence[str]], name: str, last: str) -> str:
        """The text of what also varies within a list, by its first or last module."""
        start, end = [row[0] for row in rows], [row[-1] for row in rows]
        if all(len(set(row[1:])) == 1 for row in rows):
            if all(text == "False" for text in end):
                return "i == 0" if set(start) == {"True"} else f"{self.column(start, name)} and i == 0"
            rest = self.column(end, name)
            return f"{self.column(start, name)} if i == 0 else {rest}"
        if all(len(set(row[:-1])) == 1 for row in rows):
            return f"{self.column(start, name)} if i < {last} else {self.column(end, name)}"
        if any(len(set(row[1:-1])) > 1 for row in rows):
            raise _Unlike
        rest = self.column([row[1] for row in rows], name)
        first, final = self.column(start, f"first_{name}"), self.column(end, f"last_{name}")
        return f"{first} if i == 0 else {rest} if i < {last} else {final}"


def _word(key: int | str) -> str:
    """The name of a variable for an argument."""
    return key if isinstance(key, str) else "n"


def _ratio(one: str, other: str) -> int:
    """How many times a multiple of a size another is; 0 if it is no whole number of times, or no multiple."""
    found = [re.fullmatch(r"(?:(\d+) \* )?([A-Za-z_]\w*)", text) for text in (one, other)]
    if not found[0] or not found[1] or found[0][2] != found[1][2]:
        return 0
    times, of = int(found[0][1] or 1), int(found[1][1] or 1)
    return times // of if times % of == 0 else 0
