"""Statements that occur several times in a body, with other names of locals, as a function that it calls."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from latentc.emit.outcome import Unknown, outcome
from latentc.emit.rolled import Statement, statements_of
from latentc.emit.text import base_name, commas, free_name, layout

FEWEST = 3  # occurrences that are worth a function
SHORTEST = 5  # statements that are worth a function
MOST_ARGUMENTS = 6


@dataclass(frozen=True)
class Outlined:
    """The lines of a body that calls a function, and that function's name and text."""

    lines: list[str]
    name: str
    text: str


def outlined(lines: Sequence[str], inputs: Sequence[str], taken: Iterable[str], reserve: int) -> Outlined | None:
    """The body with its most repeated statements as a function; None if there are none. `reserve` as in `layout`.

    The function takes tensors and returns one. `taken` are names that it may not have.
    """
    try:
        statements = statements_of(lines, inputs)
        made = _Outline(statements, inputs, taken, reserve).made()
        same = made is not None and outcome(made.lines, inputs, made.text) == outcome(lines, inputs)
    except Unknown:
        return None
    return made if same else None


class _Outline:
    def __init__(
        self, statements: Sequence[Statement], inputs: Sequence[str], taken: Iterable[str], reserve: int
    ) -> None:
        self.statements, self.inputs, self.reserve = statements, set(inputs), reserve
        trees = [_parsed(s.code) for s in statements]
        starred = (n.value for tree in trees for n in ast.walk(tree) if isinstance(n, ast.Starred))
        self.lists = {value.id for value in starred if isinstance(value, ast.Name)}
        names = [[n for n in ast.walk(tree) if isinstance(n, ast.Name)] for tree in trees]
        self.read = [{n.id for n in found if isinstance(n.ctx, ast.Load)} for found in names]
        self.stored = [{n.id for n in found if isinstance(n.ctx, ast.Store)} for found in names]
        numbers: dict[str, int] = {}
        self.forms = [numbers.setdefault(s.form, len(numbers)) for s in statements]
        self.taken = {*taken, *inputs, *(a.value for s in statements for a in s.atoms if isinstance(a.value, str))}

    def made(self) -> Outlined | None:
        best: tuple[int, list[int], int] | None = None
        count, often = len(self.statements), Counter(self.forms)
        for length in range(SHORTEST, count // FEWEST + 1):
            places: dict[tuple[int, ...], list[int]] = {}
            for start in range(count - length + 1):
                key = tuple(self.forms[start : start + length])
                if often[key[0]] < FEWEST or often[key[-1]] < FEWEST:
                    continue
                if not places.get(key) or places[key][-1] + length <= start:
                    places.setdefault(key, []).append(start)
            repeated = [found for found in places.values() if len(found) >= FEWEST]
            if not repeated:
                break
            for found in repeated:
                first = self._renamed(found[0], length)
                alike = [start for start in found if self._renamed(start, length) == first]
                saved = (len(alike) - 1) * length
                if len(alike) < FEWEST or (best and saved <= best[0]) or self._signature(alike, length) is None:
                    continue
                best = saved, alike, length
        return self._written(best[1], best[2]) if best else None

    def _renamed(self, start: int, length: int) -> list[object]:
        """The numbers of the statements, and the names in the order of their first occurrence."""
        order: dict[str, int] = {}
        found: list[object] = []
        for name, stored, value in self._atoms(start, length):
            found.append((order.setdefault(name, len(order)), stored) if name else value)
        return found

    def _atoms(self, start: int, length: int) -> Iterator[tuple[str, bool, object]]:
        for statement in self.statements[start : start + length]:
            # The value is computed before its targets are assigned.
            for atom in sorted(statement.atoms, key=lambda atom: atom.stored):
                yield (atom.value, atom.stored, None) if isinstance(atom.value, str) else ("", False, repr(atom.value))

    def _signature(self, starts: Sequence[int], length: int) -> tuple[list[int], int] | None:
        """(places of the arguments among the names, place of the result); None if no tensors lead to just one."""
        results: set[int] = set()
        arguments: list[int] = []
        for start in starts:
            order: dict[str, int] = {}
            stored: set[str] = set()
            arguments = []
            for name, stores, _ in self._atoms(start, length):
                if not name:
                    continue
                place = order.setdefault(name, len(order))
                if stores:
                    stored.add(name)
                elif name not in stored and place not in arguments:
                    arguments.append(place)
            if self.lists & set(order):
                return None
            results |= {order[name] for name in stored & self._read_after(start + length)}
        return (arguments, results.pop()) if len(results) == 1 and len(arguments) <= MOST_ARGUMENTS else None

    def _read_after(self, place: int) -> set[str]:
        """Names that are read from a place on before they are assigned."""
        read: set[str] = set()
        stored: set[str] = set()
        for own, made in zip(self.read[place:], self.stored[place:], strict=True):
            read |= own - stored
            stored |= made
        return read

    def _written(self, starts: Sequence[int], length: int) -> Outlined | None:
        signature = self._signature(starts, length)
        assert signature is not None
        arguments, result = signature
        own = self._names(starts[0], length)
        if any(own[place] in self.inputs and own[place] in ("model", "weights") for place in arguments):
            return None
        function = free_name(f"{base_name(own[result])}_of", self.taken)
        lines: list[str] = []
        for place, statement in enumerate(self.statements):
            start = next((start for start in starts if start <= place < start + length), None)
            if start is None:
                lines += statement.lines
            elif start == place:
                names = self._names(start, length)
                called = f"{names[result]} = {function}({commas(names[i] for i in arguments)})"
                last = self.statements[start + length - 1]
                lines += layout("", called, last.comment, self.reserve)
        head = f"def {function}({commas(f'{own[i]}: Tensor' for i in arguments)}) -> Tensor:"
        body: list[str] = []
        for i in range(length):
            column = [self.statements[start + i] for start in starts]
            comment = column[0].comment if len({s.comment for s in column}) == 1 else ""
            body += layout("    ", column[0].code, comment)
        text = "\n".join([*layout("", head), *body, f"    return {own[result]}"]) + "\n"
        return Outlined(lines, function, text)

    def _names(self, start: int, length: int) -> list[str]:
        return list(dict.fromkeys(name for name, _, _ in self._atoms(start, length) if name))


def _parsed(code: str) -> ast.Module:
    try:
        return ast.parse(code)
    except SyntaxError:
        raise Unknown from None
