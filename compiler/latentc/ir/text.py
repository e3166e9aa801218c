"""The text form of a module, which parses back to an equal one: for `show`, golden tests and bug reports.

    latentc-ir 1
    entry main = "DiT.forward"

    fn "MLP.forward" = MLP.forward {dim=64} (%x: f32[B, T=16, dim=64]) {
      weight %fc1.weight: f32[4 * dim=256, dim=64] = xavier_uniform {}
      %h: f32[B, T=16, 4 * dim=256] = linear(%x, %fc1.weight)
      return %h
    }

A size prints as the expression it was written with and its value. Two modules are equal when their texts are.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from latentc.ir.core import Function, Init, Module, Node, Origin, Param, Recipe, Value
from latentc.ir.recipes import MADE
from latentc.ir.types import NUMPY, Named, Sym, TensorType

HEADER = "latentc-ir 1"
_INLINE = 16  # arrays up to this many elements print in full


class TextError(ValueError):
    """Text that is not a module; the message names the line."""


# ---- printing


_KINDS: dict[str, tuple[str, Any]] = {
    "f": ("f64", np.float64),
    "i": ("i64", np.int64),
    "u": ("i64", np.int64),
    "b": ("bool", np.bool_),
}
_DTYPES = dict(_KINDS.values())


def _array_text(array: np.ndarray[Any, Any], full: bool) -> str:
    kind, dtype = _KINDS[array.dtype.kind]
    array = array.astype(dtype)
    shape = ", ".join(map(str, array.shape))
    if array.size <= _INLINE:
        values = "".join(f", {v!r}" for v in array.reshape(-1).tolist())
        return f"array({kind}, [{shape}]{values})"
    if not full:
        flat = array.reshape(-1)
        return f"array({kind}, [{shape}], {flat[0]:.6g} .. {flat[-1]:.6g})"
    return f"array({kind}, [{shape}], base64:{base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()})"


def literal(value: Any, full: bool = True) -> str:
    """An attribute's value as text."""
    match value:
        case None:
            return "none"
        case bool() | np.bool_():
            return "true" if value else "false"
        case int() | Sym():
            return repr(value)
        case float() | np.floating():
            return repr(float(value))
        case np.integer():
            return repr(int(value))
        case str():
            return json.dumps(value)
        case tuple() | list():
            return f"({', '.join(literal(v, full) for v in value)})"
        case np.ndarray():
            return _array_text(value, full)
        case Mapping():
            return attrs_text(value, full)
    raise TypeError(f"an attribute cannot hold {type(value).__name__}")


def attrs_text(attrs: Mapping[str, Any], full: bool = True) -> str:
    return "{" + ", ".join(f"{k}={literal(v, full)}" for k, v in attrs.items()) + "}"


def node_text(node: Node, full: bool = False) -> str:
    """One node on one line."""
    outs = ", ".join(f"%{o.name}: {o.type}" for o in node.outputs)
    ins = ", ".join(f"%{v.name}" for v in node.inputs)
    attrs = f" {attrs_text(node.attrs, full)}" if node.attrs else ""
    loc = f" @ {json.dumps(node.loc)}" if node.loc else ""
    return f"{outs} = {node.op}({ins}){attrs}{loc}"


def _param_text(param: Param, full: bool) -> str:
    made = param.recipe
    how = f"{param.init.kind} {attrs_text(param.init.args, full)}" if made is None else recipe_text(made, full)
    return f"{param.kind} %{param.name}: {param.type} = {how}"


def recipe_text(made: Recipe | Param, full: bool = True) -> str:
    """A recipe as text, the weights it starts from in brackets."""
    if isinstance(made, Param):
        return f"[{_param_text(made, full)}]"
    attrs = f" {attrs_text(made.attrs, full)}" if made.attrs else ""
    return f"{made.op}({', '.join(recipe_text(arg, full) for arg in made.args)}){attrs}"


def _function_lines(fn: Function, full: bool) -> Iterator[str]:
    origin = f" = {fn.origin.cls}.{fn.origin.method} {attrs_text(fn.origin.args, full)}" if fn.origin else ""
    inputs = ", ".join(f"%{v.name}: {v.type}" for v in fn.inputs)
    yield f"fn {json.dumps(fn.name)}{origin} ({inputs}) {{"
    if fn.doc:
        yield f"  doc {json.dumps(fn.doc)}"
    for p in fn.params:
        yield f"  {_param_text(p, full)}"
    for node in fn.nodes:
        yield f"  {node_text(node, full)}"
    yield f"  return {', '.join('%' + v.name for v in fn.outputs)}"
    yield "}"


def text_from_module(module: Module, full: bool = True) -> str:
    """The text form; `full=False` abbreviates large literal tensors (and no longer parses)."""
    lines = [HEADER, *(f"entry {name} = {json.dumps(fn)}" for name, fn in module.entries.items())]
    for fn in module.functions.values():
        lines += ["", *_function_lines(fn, full)]
    return "\n".join(lines) + "\n"


def equal(a: Module, b: Module) -> bool:
    return text_from_module(a) == text_from_module(b)


# ---- parsing


def _quote_end(text: str, start: int) -> int:
    """Index of the quote that ends the string opened at `start`."""
    i = start + 1
    while i < len(text) and text[i] != '"':
        i += 2 if text[i] == "\\" else 1
    return i


def _split_top(text: str) -> list[str]:
    """Splits at commas outside quotes and brackets."""
    parts, depth, start, i = [], 0, 0, 0
    while i < len(text):
        ch = text[i]
        if ch == '"':
            i = _quote_end(text, i)
        elif ch in "([{":
            depth += 1
        elif ch in ")]}":
            depth -= 1
        elif ch == "," and depth == 0:
            parts.append(text[start:i].strip())
            start = i + 1
        i += 1
    tail = text[start:].strip()
    return [*parts, tail] if tail or parts else []


def _closing(text: str, start: int, bracket: str) -> int:
    """Index of the bracket that closes the one at `start`, which must be a `bracket`."""
    if text[start : start + 1] != bracket:
        raise TextError(f"wants {bracket!r} at {text[start:]!r}")
    depth, i = 0, start
    while i < len(text):
        ch = text[i]
        if ch == '"':
            i = _quote_end(text, i)
        elif ch in "([{":
            depth += 1
        elif ch in ")]}":
            depth -= 1
            if depth == 0:
                return i
        i += 1
    raise TextError(f"no bracket closes {text[start:]!r}")


_SYM = re.compile(r"(?:([0-9]+)\*)?([A-Z]\w*)$")
_NUMBER = re.compile(r"-?[0-9]+$")
_FLOAT = re.compile(r"-?([0-9]+(\.[0-9]*)?(e[-+]?[0-9]+)?|inf|nan)$")


def _size(text: str) -> Any:
    if _NUMBER.match(text):
        return int(text)
    if m := _SYM.match(text):
        return Sym(m[2], int(m[1] or 1))
    expr, _, value = text.rpartition("=")
    if not expr or not _NUMBER.match(value):
        raise TextError(f"not a size: {text!r}")
    name, _, meaning = expr.partition(":")
    return Named(int(value), name, meaning)


def _type(text: str) -> TensorType:
    m = re.match(r"(\w+)\[(.*)\]$", text.strip())
    if not m or m[1] not in NUMPY:
        raise TextError(f"not a type: {text!r}")
    return TensorType(m[1], tuple(_size(d) for d in _split_top(m[2])))


def _array(body: str) -> np.ndarray[Any, Any]:
    kind, shape_text, *rest = _split_top(body)
    dtype = _DTYPES[kind]
    shape = tuple(int(d) for d in _split_top(shape_text[1:-1]))
    if len(rest) == 1 and rest[0].startswith("base64:"):
        data = base64.b64decode(rest[0][7:], validate=True)
        return np.frombuffer(data, dtype=dtype).reshape(shape).copy()
    parse: Any = {"f64": float, "i64": int, "bool": {"True": True, "False": False}.__getitem__}[kind]
    return np.array([parse(v) for v in rest], dtype=dtype).reshape(shape)


def _literal(text: str) -> Any:
    words = {"none": None, "true": True, "false": False}
    if text in words:
        return words[text]
    if text.startswith('"'):
        return _string(text)
    if text.startswith("array(") and text.endswith(")"):
        return _array(text[6:-1])
    if text.startswith("{"):
        return _attrs(text)
    if text.startswith("(") and text.endswith(")"):
        return tuple(_literal(v) for v in _split_top(text[1:-1]))
    if _FLOAT.match(text) and not _NUMBER.match(text):
        return float(text)
    return _size(text)


def _string(text: str) -> str:
    value = json.loads(text)
    if not isinstance(value, str):
        raise TextError(f"not a string: {text!r}")
    return value


def _attrs(text: str) -> dict[str, Any]:
    if not (text.startswith("{") and text.endswith("}")):
        raise TextError(f"not attributes: {text!r}")
    result = {}
    for item in _split_top(text[1:-1]):
        key, equals, value = item.partition("=")
        if not key.isidentifier() or not equals or key in result:
            raise TextError(f"not an attribute, or a second one of its name: {item!r}")
        result[key] = _literal(value)
    return result


def _name(text: str) -> str:
    if not re.match(r"%\S+$", text):
        raise TextError(f"not a value: {text!r}")
    return text[1:]


def _values(text: str) -> list[Value]:
    result = []
    for item in _split_top(text):
        name, _, type_text = item.partition(": ")
        result.append(Value(_name(name), _type(type_text)))
    return result


_PARAM = re.compile(r"(weight|buffer|state|calibrated) (%\S+): (.*?) = (\w+)([ (].*)$")


def _param(text: str) -> Param:
    m = _PARAM.match(text)
    if not m:
        raise TextError(f"not a param: {text!r}")
    value = Value(_name(m[2]), _type(m[3]))
    if m[5].startswith(" "):
        return Param(value, Init(m[4], _attrs(m[5].strip())), m[1])
    return Param(value, MADE, m[1], _recipe(m[4] + m[5]))


def _recipe(text: str) -> Recipe:
    op, _, _ = text.partition("(")
    close = _closing(text, len(op), "(")
    args = [_param(a[1:-1]) if a.startswith("[") else _recipe(a) for a in _split_top(text[len(op) + 1 : close])]
    rest = text[close + 1 :].strip()
    return Recipe(op, tuple(args), _attrs(rest) if rest else {})


class _FunctionText:
    """A function being read, line by line."""

    def __init__(self, line: str) -> None:
        head = re.match(r'fn ("(?:[^"\\]|\\.)*")(?: = (\w+)\.(\w+) )?', line)
        if not head:
            raise TextError(f"not a function: {line!r}")
        self.name = _string(head[1])
        rest, self.origin = line[head.end() :].strip(), None
        if head[2]:
            close = _closing(rest, 0, "{")
            self.origin = Origin(head[2], _attrs(rest[: close + 1]), head[3])
            rest = rest[close + 1 :].strip()
        close = _closing(rest, 0, "(")
        if rest[close + 1 :].strip() != "{":
            raise TextError(f"wants '{{' after the inputs of {self.name}")
        self.inputs = _values(rest[1:close])
        self.env = {v.name: v for v in self.inputs}
        self.params: list[Param] = []
        self.nodes: list[Node] = []
        self.outputs: tuple[Value, ...] | None = None
        self.doc = ""

    def line(self, line: str) -> None:
        if self.outputs is not None:
            raise TextError(f"{self.name} goes on after its return")
        if line.startswith("doc "):
            self.doc = _string(line[4:])
        elif _PARAM.match(line):
            param = _param(line)
            self.env[param.name] = param.value
            self.params.append(param)
        elif m := re.match(r"return( |$)", line):
            self.outputs = self._used(line[m.end() :])
        else:
            self.nodes.append(self._node(line))

    def _used(self, text: str) -> tuple[Value, ...]:
        names = [_name(n) for n in _split_top(text)]
        for name in names:
            if name not in self.env:
                raise TextError(f"{name} is used before it is defined")
        return tuple(self.env[name] for name in names)

    def _node(self, line: str) -> Node:
        m = re.search(r" = (\w+)\(", line)
        if not m:
            raise TextError(f"not a node: {line!r}")
        outputs = _values(line[: m.start()])
        end = _closing(line, m.end() - 1, "(")
        inputs = self._used(line[m.end() : end])
        rest, attrs, loc = line[end + 1 :].strip(), {}, ""
        if rest.startswith("{"):
            close = _closing(rest, 0, "{")
            attrs, rest = _attrs(rest[: close + 1]), rest[close + 1 :].strip()
        if rest.startswith("@ "):
            loc, rest = _string(rest[2:]), ""
        if rest:
            raise TextError(f"{rest!r} after the node")
        self.env.update((o.name, o) for o in outputs)
        return Node(m[1], inputs, tuple(outputs), attrs, loc)

    def finish(self) -> Function:
        if self.outputs is None:
            raise TextError(f"{self.name} does not return")
        parts = (tuple(self.inputs), tuple(self.params), tuple(self.nodes), self.outputs)
        return Function(self.name, *parts, self.origin, self.doc)


def module_from_text(text: str) -> Module:
    """Parses the text form. Raises TextError with the line number, and nothing else; `verify` checks what it means."""
    lines = text.split("\n")
    if lines[0] != HEADER:
        raise TextError(f"line 1: wants {HEADER!r}")
    entries: dict[str, str] = {}
    functions: dict[str, Function] = {}
    current: _FunctionText | None = None
    number = 1
    try:
        for raw in lines[1:]:
            number += 1
            line = raw.strip()
            if not line:
                continue
            if current is not None and line == "}":
                functions[current.name] = current.finish()
                current = None
            elif current is not None:
                current.line(line)
            elif line.startswith("entry "):
                name, _, fn = line[6:].partition(" = ")
                entries[name] = _string(fn)
            else:
                current = _FunctionText(line)
                if current.name in functions:
                    raise TextError(f"a second function {current.name}")
        if current is not None:
            raise TextError(f"{current.name} does not end")
    except TextError as error:
        raise TextError(f"line {number}: {error}") from None
    except (LookupError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise TextError(f"line {number}: {type(error).__name__}: {error}") from None
    return Module(functions, entries)
