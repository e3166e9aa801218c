"""The project's `schedule.py`: the steps of its samplers as formulas, and the loops that read them.

A sampling program holds tables of per-step coefficients. Where its sampler gives them as formulas (`Script`), and these
compute every table of the program bit for bit, the project has the formulas in place of the tables.
"""

from __future__ import annotations

import ast
import io
import math
import re
import tokenize
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from latentc.components.samplers.script import RENAMED, Script
from latentc.emit.text import HARD_WIDTH, Text, commas, docstring, layout, literal
from latentc.ir.core import Function, Module, Node, Value

FIXED = 1e-12
"""A column that differs from 0 or 1 by no more than this is left out of the sampler's text."""
ROWS = '''def rows(columns: dict[str, Array], like: Tensor, **left_out: float) -> list[SimpleNamespace]:
    """The coefficients of each step, scalars on like's device.

    `left_out`: those that the sampler's text leaves out, and their value. SystemExit: another value.
    """
    for name, value in left_out.items():
        if np.any(np.abs(columns[name] - value) > 1e-12):
            raise SystemExit(f"with these settings {name} is not always {value}: emit the project again")
    tensors = [torch.tensor(column).to(like) for column in columns.values()]
    return [SimpleNamespace(**dict(zip(columns, row, strict=True))) for row in zip(*tensors, strict=True)]
'''


@dataclass(frozen=True)
class Rows:
    """The rows that a loop reads: those from `first` to `last` of the columns `name`.

    `columns`: {name of the body's input: column}. `fixed`: {column that the body leaves out: its value}.
    """

    name: str
    first: int
    last: int
    total: int
    columns: Mapping[str, str]
    fixed: Mapping[str, int]

    def text(self, like: str) -> str:
        if self.last - self.first < self.total:  # the steps cannot be changed, so nothing else can be left out
            return f"schedule.rows({self.name}, {like})[{self.first}:{self.last}]"
        fixed = "".join(f", {name}={value}" for name, value in self.fixed.items())
        return f"schedule.rows({self.name}, {like}{fixed})"


@dataclass(frozen=True)
class Plan:
    """The steps of a program: function `name` of schedule.py, and the rows that each of its loops reads.

    `prior`: the constant that is the first state's scale. `parts` {slice of the noise: its index}: those of loops.
    `settable`: other arguments give other steps.
    """

    name: str
    loops: tuple[Rows, ...]
    prior: Value | None = None
    parts: Mapping[Value, str] = field(default_factory=dict)
    settable: bool = False

    @property
    def head(self) -> str:
        """The statement that computes the steps."""
        names = [*(["prior"] if self.prior else []), *dict.fromkeys(rows.name for rows in self.loops)]
        target = f"({names[0]},)" if len(names) == 1 else commas(names)
        return f"{target} = schedule.{self.name}({'**settings' * self.settable})"

    @property
    def names(self) -> frozenset[str]:
        """Names that the sampler's other values may not take."""
        return frozenset(("schedule", "settings", "prior", "step", *(rows.name for rows in self.loops)))

    @property
    def texts(self) -> dict[Value, Text]:
        return {} if self.prior is None else {self.prior: Text("prior")}


@dataclass
class Schedules:
    """Collects the schedules of a project."""

    functions: dict[str, str] = field(default_factory=dict)
    constants: dict[str, float] = field(default_factory=dict)

    def add(self, name: str, script: Script, module: Module, entry: str, doc: str) -> Plan | None:
        """The plan of a program over the function `entry`; None if the formulas are not its tables."""
        functions = {**script.sources.functions, name: schedule_function(name, script, doc)}
        constants = {key: value for key, value in script.sources.constants.items() if _mentions(functions, key)}
        clash = any(self.functions.get(key, text) != text for key, text in functions.items())
        if clash or any(self.constants.get(key, value) != value for key, value in constants.items()):
            return None
        try:
            made = evaluated(schedule_text(constants, functions), name)
        except Exception:  # a component's formula may use anything, which the text may lack; its tables are right
            return None
        plan = _plan(name, module.functions[entry], module, made, bool(script.arguments))
        if plan is not None:
            self.functions |= functions
            self.constants |= constants
        return plan

    def source(self) -> str:
        """The text of schedule.py; empty if there are none."""
        if not self.functions:
            return ""
        body = schedule_text(self.constants, self.functions) + "\n\n" + ROWS
        head = [
            "from types import SimpleNamespace",
            "",
            "import numpy as np",
            "import torch",
            "from torch import Tensor",
        ]
        head = [*(["import math"] if "math." in body else []), *head]
        title = "The steps of the samplers: process, spacing and the solver's coefficients, as formulas in float64."
        return "\n".join([*docstring(title, ""), "", *head, "", body])


def schedule_function(name: str, script: Script, doc: str) -> str:
    """The function that computes the coefficients of a program's steps."""
    arguments = commas(
        f"{key}: {type(value).__name__} = {literal(value).code}" for key, value in script.arguments.items()
    )
    returned = [*([script.prior] if script.prior != "1.0" else []), *script.loops]
    what = (
        "The coefficients of each step"
        if script.prior == "1.0"
        else "The first state's scale, and the steps' coefficients"
    )
    lines = ['@np.errstate(all="ignore")', f"def {name}({arguments}) -> tuple:", f'    """{doc}. {what}."""']
    lines += [f"    {line}" for line in script.lines]
    lines.append(f"    return ({commas(returned)}{',' if len(returned) == 1 else ''})")
    return "\n".join(lines)


def schedule_text(constants: Mapping[str, float], functions: Mapping[str, str]) -> str:
    """Constants and functions as formatted source."""
    parts = ["Array = np.ndarray\n"]
    if constants:
        parts.append("\n".join(f"{name} = {literal(value).code}" for name, value in constants.items()) + "\n")
    return "\n".join(parts) + "\n\n" + "\n\n".join(formatted(text) for text in functions.values())


def evaluated(text: str, name: str) -> tuple[Any, ...]:
    """The value of the schedule `name` of a text at its defaults."""
    scope: dict[str, Any] = {"np": np, "math": math}
    exec(compile(text, "schedule", "exec"), scope)  # printed from our own source
    return tuple(scope[name]())


def formatted(text: str) -> str:
    """Python source in the project's layout: double quotes, no parentheses around tuples, lines that fit."""
    text = re.sub(r"^(\s*)(return|[\w, \[\]-]+ =) \((.*)\)$", _bare_tuple, text, flags=re.MULTILINE)
    lines = [list(line) for line in text.splitlines()]
    (tree,) = ast.parse(text).body
    # An f-string is one token until Python 3.11 and several from 3.12 on.
    strings = [node for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) and node.lineno == node.end_lineno]
    spans = [(node.lineno, node.col_offset, node.end_col_offset or 0) for node in strings]
    for row, start, end in spans:
        if re.match(r"f'[^\"]*'$", "".join(lines[row - 1][start:end])):
            lines[row - 1][start + 1] = lines[row - 1][end - 1] = '"'
    for token in reversed(list(tokenize.generate_tokens(io.StringIO(text + "\n").readline))):
        (row, start), (last, end) = token.start, token.end
        if any(row == line and left <= start < right for line, left, right in spans):
            continue
        if token.type == tokenize.STRING and token.string.startswith("'") and row == last:
            lines[row - 1][start:end] = literal(ast.literal_eval(token.string)).code
    texts = ["".join(line) for line in lines]
    found: list[str] = []
    doc = tree.body[0] if isinstance(tree, ast.FunctionDef) and ast.get_docstring(tree) else None
    start, stop = (doc.lineno - 1, doc.end_lineno or 0) if doc is not None else (0, 0)
    for row, line in enumerate(texts):
        indent = line[: len(line) - len(line.lstrip())]
        if start <= row < stop:
            paragraphs = (ast.get_docstring(tree) or "").split("\n\n")  # type: ignore[arg-type]
            whole = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
            found += docstring(whole, "    ") if row == start else []
        else:
            found += layout(indent, line.strip()) if line.strip() else [""]
    return "\n".join(found) + "\n"


def _bare_tuple(found: re.Match[str]) -> str:
    try:
        value = ast.parse(found[0].strip()).body[0].value  # type: ignore[attr-defined]
    except SyntaxError:
        return found[0]
    if not isinstance(value, ast.Tuple) or len(value.elts) < 2:
        return found[0]
    bare = f"{found[1]}{found[2]} {found[3]}"
    same = ast.dump(ast.parse(bare.strip())) == ast.dump(ast.parse(found[0].strip()))
    return bare if same and len(bare) <= HARD_WIDTH else found[0]


def _mentions(functions: Mapping[str, str], name: str) -> bool:
    return any(re.search(rf"\b{name}\b", text) for text in functions.values())


# ---- a program's tables


def _plan(name: str, fn: Function, module: Module, made: tuple[Any, ...], settable: bool) -> Plan | None:
    """The plan that reads the columns `made`, if they are the tables of the function's loops."""
    scale, columns = (1.0, made) if isinstance(made[0], dict) else (float(made[0]), made[1:])
    constants = {node.outputs[0]: node.attrs["value"] for node in fn.nodes if node.op == "constant"}
    prior = None
    if scale != 1.0:
        same = [value for value, array in constants.items() if np.ndim(array) == 0 and float(array) == scale]
        if len(same) != 1:
            return None
        (prior,) = same
    loops = [node for node in fn.nodes if node.op == "loop"]
    names = ["steps", "last"] if len(columns) == 2 else ["steps", *(f"steps_{i}" for i in range(2, len(columns) + 1))]
    found, at, row = [], 0, 0
    for node in loops:
        if at == len(columns):
            return None
        rows = _rows(node, module, constants, columns[at], row, names[at])
        if rows is None:
            return None
        found.append(rows)
        at, row = (at + 1, 0) if rows.last == rows.total else (at, rows.last)
    if at < len(columns):
        return None
    parts = _parts(fn, loops, found) if len(loops) == len(columns) else None
    return Plan(name, tuple(found), prior, parts or {}, settable and parts is not None)


def _parts(fn: Function, loops: Sequence[Node], found: Sequence[Rows]) -> dict[Value, str] | None:
    """The parts of the noise that loops take, by their numbers of rows; None if they take other per-step inputs."""
    slices = {node.outputs[0]: node for node in fn.nodes if node.op == "slice" and node.inputs[0] in fn.inputs}
    parts: dict[Value, str] = {}
    before: list[str] = []
    row = 0
    for node, rows in zip(loops, found, strict=True):
        tables = node.inputs[node.attrs["invariants"] + node.attrs["carried"] :]
        drawn = [v for v in tables if v in slices or v in fn.inputs]
        if len(drawn) > 1 or any((slices[v].inputs[0] if v in slices else v).name != "noise" for v in drawn):
            return None
        for v in drawn:
            if v in slices:
                if (slices[v].attrs["axis"], slices[v].attrs["start"]) != (0, row):
                    return None
                ends = [*before, f'len({rows.name}["t"])']
                parts[v] = f"[{' + '.join(before)}:{' + '.join(ends)}]"
            row += rows.total
            before.append(f'len({rows.name}["t"])')
    return parts


def _rows(
    node: Node, module: Module, constants: Mapping[Value, Any], columns: Mapping[str, Any], first: int, name: str
) -> Rows | None:
    body, start = module.functions[node.attrs["body"]], node.attrs["invariants"] + node.attrs["carried"]
    total, trip = len(columns["t"]), int(node.attrs["trip"])
    read: dict[str, str] = {}
    for formal, given in zip(body.inputs[1 + start :], node.inputs[start:], strict=True):
        if given not in constants:
            continue
        key = re.sub(r"^k_", "", formal.name)
        column = RENAMED.get(key, key)
        if column not in columns or not np.array_equal(columns[column][first : first + trip], constants[given]):
            return None
        read[formal.name] = column
    fixed = {}
    for column, values in columns.items():
        if column not in read.values():
            part = values[first : first + trip]
            value = next((v for v in (0, 1) if np.all(np.abs(part - v) <= FIXED)), None)
            if value is None:
                return None
            fixed[column] = value
    return Rows(name, first, first + trip, total, read, fixed) if read else None
