"""Statements that follow each other several times over, with other numbers and names, as a loop.

A sampler that visits the scales of a sample calls other methods, or passes other numbers, at each of them. The loop is
printed only if it computes the same as the statements: both are run on symbols.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from latentc.emit.outcome import Unknown, body_of, outcome
from latentc.emit.text import base_name, commas, free_name, layout, literal, plural

FEWEST = 3  # repetitions that are worth a loop
SHORTEST = 4  # statements that are worth a loop


@dataclass
class Atom:
    """A number or the name of a local, and where it stands in its statement's text."""

    node: ast.Constant | ast.Name
    stored: bool

    @property
    def value(self) -> Any:
        return self.node.value if isinstance(self.node, ast.Constant) else self.node.id


@dataclass
class Statement:
    """A statement's lines, its text on one line, its comment, and its form without numbers and names of locals."""

    lines: list[str]
    code: str
    comment: str
    form: str = ""
    atoms: list[Atom] = field(default_factory=list)


def rolled(lines: Sequence[str], inputs: Sequence[str], reserve: int) -> list[str]:
    """The lines of a function's body, with repeated statements as loops; `reserve` as in `layout`."""
    try:
        statements = statements_of(lines, inputs)
        found = _repetition([s.form for s in statements])
        if found is None:
            return list(lines)
        made = _Loop(statements, *found, reserve).lines()
        if outcome(lines, inputs) != outcome(made, inputs):
            return list(lines)
    except Unknown:
        return list(lines)
    return made


def statements_of(lines: Sequence[str], inputs: Sequence[str]) -> list[Statement]:
    tree = body_of(lines)
    names = (n for node in tree for n in ast.walk(node) if isinstance(n, ast.Name))
    locals_ = {*inputs, *(n.id for n in names if isinstance(n.ctx, ast.Store))}
    found: list[Statement] = []
    for node in tree:
        own = list(lines[node.lineno - 2 : (node.end_lineno or 0) - 1])
        comment = ""
        if isinstance(node, ast.For):
            code = "\n".join(own)
        elif len(own) == 1:
            code, _, comment = own[0].partition("  # ")
        else:
            code = _on_one_line(own)
        statement = Statement(own, code, comment, f"{len(found)} is in no loop")
        if isinstance(node, ast.Assign):
            collector = _Forms(locals_)
            statement.form = ast.dump(collector.visit(ast.parse(code).body[0]))
            statement.atoms = collector.atoms
        found.append(statement)
    return found


def _on_one_line(lines: Sequence[str]) -> str:
    """A statement that `layout` has broken, whole again."""
    code = re.sub(r"(?<=[(\[{]) | (?=[)\]}])", "", " ".join(line.strip() for line in lines))
    whole = re.sub(r",(?=[)\]}])", "", code)
    return whole if ast.dump(ast.parse(whole)) == ast.dump(ast.parse(code)) else code


class _Forms(ast.NodeTransformer):
    """Replaces numbers and names of locals by one mark, and collects them."""

    def __init__(self, names: set[str]) -> None:
        self.names = names
        self.atoms: list[Atom] = []

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        if isinstance(node.value, bool) or not isinstance(node.value, int | float):
            return node
        self.atoms.append(Atom(node, False))
        return ast.Constant(type(node.value).__name__)

    def visit_Name(self, node: ast.Name) -> ast.AST:
        if node.id not in self.names:
            return node
        self.atoms.append(Atom(node, isinstance(node.ctx, ast.Store)))
        return ast.Name("local", node.ctx)


def _repetition(forms: Sequence[str]) -> tuple[int, int, int] | None:
    """(first, length, count) of the repetition that saves the most statements; of equal ones the first."""
    best: tuple[int, tuple[int, int, int]] | None = None
    for length in range(SHORTEST, len(forms) // FEWEST + 1):
        run = 0  # statements in a row that equal the one `length` before them
        for end in range(length, len(forms) + 1):
            same = end < len(forms) and forms[end] == forms[end - length]
            if same:
                run += 1
                continue
            count = run // length + 1
            if count >= FEWEST and (best is None or (count - 1) * length > best[0]):
                best = (count - 1) * length, (end - run - length, length, count)
            run = 0
    return best[1] if best else None


class _Loop:
    """A repetition as a loop: `lines` of the whole body."""

    def __init__(self, statements: Sequence[Statement], first: int, length: int, count: int, reserve: int) -> None:
        self.before, self.after = statements[:first], statements[first + length * count :]
        groups = statements[first : first + length * count]
        self.groups = [groups[i * length : (i + 1) * length] for i in range(count)]
        self.count, self.reserve = count, reserve
        self.words = set(re.findall(r"[A-Za-z_]\w*\b(?!=)", "\n".join(s.code for s in statements)))
        self.rows: dict[tuple[str, ...], str] = {}  # texts that differ between the rounds: the name of the variable
        self.lists: dict[tuple[str, ...], str] = {}  # values of all rounds that are read later: the name of their list
        self.index, self.start = "", 0

    def lines(self) -> list[str]:
        names = self._names()
        numbers = [column for column in self._columns() if isinstance(column[0], int) and len(set(column)) > 1]
        steps = [column[0] for column in numbers if all(n == column[0] + i for i, n in enumerate(column))]
        if steps:
            self.start, self.index = min(steps), self._fresh("k")
        body = []
        for place, statement in enumerate(self.groups[0]):
            column = [group[place] for group in self.groups]
            same = len({s.comment for s in column}) == 1
            body += layout("", self._text(column, names), statement.comment if same else "", self.reserve + 4)
        later = [line for statement in self.after for line in self._later(statement)]
        for values, name in self.lists.items():
            body.append(f"{name}.append({names[values[0], 0]})")
        header = layout("", self._header(), "", self.reserve)
        return [
            *(line for s in self.before for line in s.lines),
            *(f"{name} = []" for name in self.lists.values()),
            *header,
            *(f"    {line}" for line in body),
            *later,
        ]

    def _fresh(self, name: str) -> str:
        name = free_name(name, self.words)
        self.words.add(name)
        return name

    def _columns(self) -> list[tuple[Any, ...]]:
        rounds = [[atom.value for statement in group for atom in statement.atoms] for group in self.groups]
        return list(zip(*rounds, strict=True))

    def _names(self) -> dict[tuple[str, int], str]:
        """{(name, round): its name in the loop}; those that only come from outside get none."""
        rounds = [[a for s in group for a in s.atoms if isinstance(a.node, ast.Name)] for group in self.groups]
        found: dict[tuple[str, int], str] = {}
        self.stored: list[tuple[str, ...]] = []
        for atoms in zip(*rounds, strict=True):
            column = tuple(atom.value for atom in atoms)
            if atoms[0].stored and len(set(column)) > 1 and "_" not in column:
                self.stored.append(column)
        self.stored = list(dict.fromkeys(self.stored))
        for column in self.stored:
            for i, name in enumerate(column):
                found[name, i] = column[0]
        # What a round reads of the one before goes by the name that it has there.
        for column in self.stored:
            for atoms in zip(*rounds, strict=True):
                read = tuple(atom.value for atom in atoms)
                if not atoms[0].stored and read[1:] == column[:-1] and read != column:
                    for i, name in enumerate(read):
                        found.setdefault((name, i), read[0])
                    for i, name in enumerate(column):
                        found[name, i] = read[0]
        return found

    def _text(self, column: Sequence[Statement], names: dict[tuple[str, int], str]) -> str:
        """A statement of the loop, given those of all rounds."""
        code = column[0].code
        pieces: list[tuple[int, int, str]] = []
        for atoms in zip(*(statement.atoms for statement in column), strict=True):
            node = atoms[0].node
            text = self._atom(tuple(atom.value for atom in atoms), names, code, node.end_col_offset or 0)
            pieces.append((node.col_offset, node.end_col_offset or 0, text))
        for start, stop, text in sorted(pieces, reverse=True):
            code = code[:start] + text + code[stop:]
        return code

    def _atom(self, column: tuple[Any, ...], names: dict[tuple[str, int], str], code: str, end: int) -> str:
        if isinstance(column[0], str):
            own = {names.get((name, i), name) for i, name in enumerate(column)}
            if len(own) == 1:
                return own.pop()
            if any((name, i) in names for i, name in enumerate(column)):
                raise Unknown
            return self.rows.setdefault(column, "") or self._row(column, base_name(column[0]))
        if len({(type(number), number) for number in column}) == 1:
            return literal(column[0]).code
        if self.index:
            k = [self.start + i for i in range(self.count)]
            if all(isinstance(number, int) and number - column[0] == i for i, number in enumerate(column)):
                offset = column[0] - self.start
                return self.index if not offset else f"({self.index} {'+' if offset > 0 else '-'} {abs(offset)})"
            over = round(k[-1] / column[-1]) if column[-1] else 0
            if over and all(
                isinstance(number, float) and i / over == number for i, number in zip(k, column, strict=True)
            ):
                return f"({self.index} / {over})"
        texts = tuple(literal(number).code for number in column)
        return self.rows.setdefault(texts, "") or self._row(texts, "n")

    def _row(self, column: tuple[str, ...], base: str) -> str:
        self.rows[column] = self._fresh(f"{base}_{self.index}" if self.index else f"{base}_i")
        return self.rows[column]

    def _header(self) -> str:
        columns = [f"({commas(column)})" for column in self.rows]
        over = columns[0] if len(columns) == 1 else f"zip({commas(columns)})"
        inner = commas(self.rows.values())
        if not self.index:
            if not columns:
                return f"for _ in range({self.count}):"
            return f"for {inner} in {over}:"
        if not columns:
            return f"for {self.index} in range({self.start}, {self.start + self.count}):"
        inner = f"({inner})" if len(columns) > 1 else inner
        start = f", {self.start}" if self.start else ""
        return f"for {self.index}, {inner} in enumerate({over}{start}):"

    def _later(self, statement: Statement) -> list[str]:
        """A statement after the loop; the values of all rounds, one after the other, are those of a list."""
        code = statement.code
        for column in self.stored:
            text = commas(column)
            if re.search(rf"[\[(, ]{re.escape(text)}[\]),]", code):
                name = self.lists.setdefault(column, "") or self._fresh(f"new_{plural(base_name(column[0]))}")
                self.lists[column] = name
                code = code.replace(text, f"*{name}")
        return statement.lines if code == statement.code else layout("", code, statement.comment, self.reserve)
