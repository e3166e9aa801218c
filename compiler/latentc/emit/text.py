"""Pieces of Python text: expressions with their precedence, sizes as written, names, line layout."""

from __future__ import annotations

import ast
import hashlib
import keyword
import re
import textwrap
import unicodedata
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np

from latentc.emit.names import TAKEN
from latentc.ir.sizes import evaluate
from latentc.ir.types import Named

WIDTH = 100  # a statement up to this long is folded into one line
HARD_WIDTH = 120  # longest emitted line

# Python's precedence, loosest first; `@` binds as `*`, but does not associate with it: a * (b @ c) is not (a * b) @ c.
COMPARE, OR, AND, SUM, MATMUL, PRODUCT, UNARY, POWER, ATOM = range(9)


@dataclass(frozen=True)
class Text:
    """An expression and how tightly it binds."""

    code: str
    level: int = ATOM

    def at(self, level: int) -> str:
        """The code, in parentheses if it binds less tightly than `level`."""
        return self.code if self.level >= level else f"({self.code})"

    @property
    def atom(self) -> str:
        return self.at(ATOM)


def literal(value: Any) -> Text:
    """A Python literal of plain data; raises TypeError for anything else.

    Strings and numbers reach the text only through `repr`.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | str):
        return Text(repr(value) if not isinstance(value, str) else _quoted(value))
    if isinstance(value, int):
        return Text(repr(int(value)), ATOM if value >= 0 else UNARY)
    if isinstance(value, float):
        if value != value or value in (float("inf"), float("-inf")):
            return Text({"inf": "math.inf", "-inf": "-math.inf"}.get(str(value), "math.nan"))
        return Text(re.sub(r"e\+?(-?)0?(\d+)$", r"e\1\2", repr(value)), ATOM if value >= 0 else UNARY)
    if isinstance(value, tuple):
        inner = ", ".join(literal(v).code for v in value)
        return Text(f"({inner},)" if len(value) == 1 else f"({inner})")
    if isinstance(value, list):
        return Text(f"[{', '.join(literal(v).code for v in value)}]")
    if isinstance(value, Mapping):
        return Text("{" + ", ".join(f"{literal(k).code}: {literal(v).code}" for k, v in value.items()) + "}")
    raise TypeError(f"no literal for {type(value).__name__}")


def _quoted(value: str) -> str:
    """repr, with double quotes if that needs no escape."""
    text = repr(value)
    return f'"{text[1:-1]}"' if text[0] == "'" and '"' not in text and "\\" not in text else text


def size_text(value: int, names: Mapping[str, int], spelled: Callable[[str], str]) -> Text:
    """A size as the expression that computed it (`4 * dim`) if its names are all in `names`; otherwise digits.

    `spelled(name)` is how a name is written here (`dim`, `self.dim`).
    """
    if isinstance(value, Named):
        for expr in filter(None, (value.expr, value.meaning)):
            try:
                same = evaluate(expr, names) == value
            except KeyError:
                continue
            if same:
                code = re.sub(r"[A-Za-z_]\w*", lambda m: spelled(m[0]), expr)
                return Text(code, _level(expr))
    return literal(int(value))


@lru_cache(maxsize=4096)
def _level(expr: str) -> int:
    tree = ast.parse(expr, mode="eval").body
    if isinstance(tree, ast.BinOp):
        return {ast.Add: SUM, ast.Sub: SUM, ast.Pow: POWER}.get(type(tree.op), PRODUCT)  # type: ignore[call-overload,no-any-return]
    return UNARY if isinstance(tree, ast.UnaryOp) else ATOM


def identifier(name: str, taken: Container[str] = TAKEN) -> str:
    """`name` as a legal Python identifier that is not `taken`: by default, by names that emitted files use."""
    name = re.sub(r"^__+", "_", re.sub(r"\W", "_", unicodedata.normalize("NFKC", name)))  # Python rewrites `__name`
    if not name.strip("_") or not name.isidentifier():
        name = f"v_{name}" if f"v_{name}".isidentifier() else f"v_{name.encode().hex()}"
    return f"{name}_" if keyword.iskeyword(name) or keyword.issoftkeyword(name) or name in taken else name


def free_name(base: str, taken: Container[str], separator: str = "_") -> str:
    """`base`, or the first of `base_2`, `base_3`, … that is not taken."""
    name, n = base, 1
    while name in taken:
        n += 1
        name = f"{base}{separator}{n}"
    return name


@lru_cache(maxsize=4096)
def base_name(name: str) -> str:
    """A value's name without the number that made it unique: `x_12` is `x`."""
    return identifier(re.sub(r"_\d+$", "", name) or "x")


def plural(name: str) -> str:
    return name if name.endswith("s") else identifier(f"{name.rstrip('_')}s")


def singular(name: str) -> str:
    """`block` of `blocks`; a name that is no plural stays as it is."""
    return identifier(re.sub(r"(?<=[^s])s$", "", name))


def docstring(text: str, indent: str, reserve: int = 0) -> list[str]:
    """The wrapped lines of a docstring; `reserve` as in `layout`."""
    width = HARD_WIDTH - len(indent) - reserve - 6
    lines = [part for line in text.strip().splitlines() for part in textwrap.wrap(line.strip(), width) or [""]]
    if not lines:
        return []
    if any('"""' in line or "\\" in line for line in lines) or lines[-1].endswith('"'):
        return [indent + literal(" ".join(line for line in lines if line)).code]
    if len(lines) == 1:
        return [f'{indent}"""{lines[0]}"""']
    return [f'{indent}"""{lines[0]}', *(f"{indent}{line}".rstrip() for line in lines[1:]), f'{indent}"""']


def layout(indent: str, code: str, comment: str = "", reserve: int = 0) -> list[str]:
    """A statement as one line with its comment, or broken at the commas of its longest outermost bracket.

    `reserve` is the indentation that the lines will get later.
    """
    line, width = indent + code, HARD_WIDTH - reserve
    if len(line) <= width:
        if comment and len(line) + 4 + len(comment) <= width:
            line += f"  # {comment}"
        return [line]
    opened = _outermost(code)
    if opened is None:
        return [line]
    start, end = opened
    head, inner, tail = code[: start + 1], code[start + 1 : end], code[end:]
    inside = indent + "    "
    parts = split_commas(inner)
    whole = inside + ", ".join(parts)
    if len(parts) == 1 and inner.rstrip().endswith(","):  # a tuple of one
        body = layout(inside, f"{parts[0]},", "", reserve)
    elif len(parts) == 1 or len(whole) <= width or len(_clauses(inner)) > 1:
        # A lone argument gets no trailing comma: in plain parentheses that would make a tuple.
        clauses = [", ".join(parts)] if len(whole) <= width else _clauses(inner)
        body = [line for clause in clauses for line in layout(inside, clause, "", reserve)]
    else:
        body = [line for part in parts for line in layout(inside, part + ",", "", reserve)]
    return [indent + head, *body, *layout(indent, tail, "", reserve)]


_TOKENS = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|[()\[\]{},]""", re.DOTALL)


def _outside_strings(code: str) -> Iterator[tuple[int, str, int]]:
    """(index, character, bracket depth) of brackets and commas in no string literal; brackets have the depth around."""
    depth = 0
    for found in _TOKENS.finditer(code):
        ch = found[0]
        if ch[0] not in "\"'":
            depth -= ch in ")]}"
            yield found.start(), ch, depth
            depth += ch in "([{"


def _outermost(code: str) -> tuple[int, int] | None:
    """(open, close) of the longest bracket at depth 0 that is not empty."""
    best, start = (0, 1), 0
    for i, ch, depth in _outside_strings(code):
        if depth == 0 and ch in "([{":
            start = i
        elif depth == 0 and ch in ")]}" and i - start > best[1] - best[0]:
            best = (start, i)
    return best if best != (0, 1) else None


def _clauses(text: str) -> list[str]:
    """The element and the `for` of a comprehension; any other text as it is."""
    element, loop, clause = text.rpartition(" for ")
    balanced = all(part.count(a) == part.count(b) for part in (element, clause) for a, b in ("()", "[]", "{}"))
    one = loop and balanced and len(split_commas(element)) == 1 and len(split_commas(clause.rpartition(" in ")[2])) == 1
    return [element, f"for {clause}"] if one and " in " in clause else [text]


def split_commas(text: str) -> list[str]:
    """Parts between top-level commas."""
    commas_at = [i for i, ch, depth in _outside_strings(text) if ch == "," and depth == 0]
    bounds = pairwise([-1, *commas_at, len(text)])
    return [part for low, high in bounds if (part := text[low + 1 : high].strip())]


@dataclass(frozen=True)
class Call:
    """A call, with the texts of its arguments by position or keyword."""

    function: str
    given: Mapping[int | str, str]

    @classmethod
    def of(cls, function: str, args: Sequence[str | Text], **keywords: Any) -> Call:
        """`function(args, keyword=literal)`; a keyword that is None is left out."""
        given: dict[int | str, str] = {i: a.code if isinstance(a, Text) else a for i, a in enumerate(args)}
        given |= {k: v.code if isinstance(v, Text) else literal(v).code for k, v in keywords.items() if v is not None}
        return cls(function, given)

    @property
    def code(self) -> str:
        words = (text if isinstance(key, int) else f"{key}={text}" for key, text in self.given.items())
        return f"{self.function}({', '.join(words)})"


def call(function: str, args: Sequence[str | Text], **keywords: Any) -> Text:
    """The text of `Call.of`."""
    return Text(Call.of(function, args, **keywords).code)


def commas(items: Iterable[str]) -> str:
    return ", ".join(items)


@lru_cache(maxsize=1024)
def code_key(source: str, named: bool = False) -> str:
    """A digest that is equal for functions or classes that are equal but for comments, docstrings and names of locals.

    If `named`, only the numbers after names may differ: locals `h_2` and `h_3` that play the same part.
    """
    parts: list[str] = []
    _write_key(ast.parse(source), {}, named, parts.append)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _write_key(node: Any, names: dict[str, str], named: bool, write: Callable[[str], None]) -> None:
    """Writes a tree, with the names of `names` in place of those of locals."""
    if isinstance(node, list):
        write("[")
        for part in node:
            _write_key(part, names, named, write)
        write("]")
        return
    if not isinstance(node, ast.AST):
        write(repr(node))
        return
    body = None
    if isinstance(node, ast.ClassDef | ast.FunctionDef):
        names = {**names, **_numbered_locals(node, named)} if isinstance(node, ast.FunctionDef) else names
        body = node.body[ast.get_docstring(node) is not None :] or [ast.Pass()]
    write(type(node).__name__)
    if isinstance(node, ast.Name):
        write(names.get(node.id, node.id))
    elif isinstance(node, ast.arg):
        write(names[node.arg])
        _write_key(node.annotation, names, named, write)
    else:
        for name in node._fields:
            if name != "ctx":  # which follows from the place
                value = body if body is not None and name == "body" else getattr(node, name, None)
                _write_key(value, names, named, write)


def _numbered_locals(function: ast.FunctionDef, named: bool) -> dict[str, str]:
    """Names of the locals of a function by their order, if `named` among those of one stem: `h_3` to `h 0`."""
    nodes = [node for node in ast.walk(function) if isinstance(node, ast.Name | ast.arg)]
    own = {node.arg for node in nodes if isinstance(node, ast.arg)}
    own |= {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    names: dict[str, str] = {}
    seen: dict[str, int] = {}
    for node in nodes:
        name = node.arg if isinstance(node, ast.arg) else node.id
        if name in own and name not in names:
            stem = re.sub(r"_\d+$", "", name) if named else ""
            names[name] = f"{stem} {seen.setdefault(stem, 0)}"
            seen[stem] += 1
    return names
