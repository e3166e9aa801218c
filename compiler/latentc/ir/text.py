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

from latentc.ir.core import Function, Init, Module, Node, Origin, Param, Value
from latentc.ir.types import Named, Sym, TensorType

HEADER = "latentc-ir 1"
_INLINE = 16  # arrays up to this many elements print in full


class TextError(ValueError):
    """Text that is not a module; the message names the line."""


# ---- printing


def _array_text(array: np.ndarray[Any, Any], full: bool) -> str:
    kind = {"f": "f64", "i": "i64", "b": "bool"}[array.dtype.kind]
    shape = ", ".join(map(str, array.shape))
    if array.size <= _INLINE:
        return f"array({kind}, [{shape}], {', '.join(repr(v) for v in array.reshape(-1).tolist())})"
    if not full:
        flat = array.reshape(-1)
        return f"array({kind}, [{shape}], {flat[0]:.6g} .. {flat[-1]:.6g})"
    return f"array({kind}, [{shape}], base64:{base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()})"


def literal(value: Any, full: bool = True) -> str:
    """An attribute's value as text."""
    match value:
        case None:
            return "none"
        case bool():
            return "true" if value else "false"
        case Named():
            return repr(value)
        case int() | float() | Sym():
            return repr(value)
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


def _function_lines(fn: Function, full: bool) -> Iterator[str]:
    origin = f" = {fn.origin.cls}.{fn.origin.method} {attrs_text(fn.origin.args, full)}" if fn.origin else ""
    inputs = ", ".join(f"%{v.name}: {v.type}" for v in fn.inputs)
    yield f"fn {json.dumps(fn.name)}{origin} ({inputs}) {{"
    if fn.doc:
        yield f"  doc {json.dumps(fn.doc)}"
    for p in fn.params:
        yield f"  {p.kind} %{p.name}: {p.type} = {p.init.kind} {attrs_text(p.init.args, full)}"
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


def _split_top(text: str, separator: str = ",") -> list[str]:
    """Splits at separators outside quotes and brackets."""
    parts, depth, start, quoted, i = [], 0, 0, False, 0
    while i < len(text):
        ch = text[i]
        if quoted:
            i += ch == "\\"
            quoted = ch != '"' or text[i] != '"'
        elif ch == '"':
            quoted = True
        elif ch in "([{":
            depth += 1
        elif ch in ")]}":
            depth -= 1
        elif ch == separator and depth == 0:
            parts.append(text[start:i].strip())
            start = i + 1
        i += 1
    tail = text[start:].strip()
    return [*parts, tail] if tail or parts else []


_SYM = re.compile(r"(?:(\d+)\*)?([A-Z]\w*)$")
_NUMBER = re.compile(r"-?\d+$")


def _size(text: str) -> Any:
    if _NUMBER.match(text):
        return int(text)
    if m := _SYM.match(text):
        return Sym(m[2], int(m[1] or 1))
    expr, _, value = text.rpartition("=")
    if not expr or not _NUMBER.match(value):
        raise TextError(f"not a size: {text!r}")
    return Named(int(value), expr)


def _type(text: str) -> TensorType:
    m = re.match(r"(\w+)\[(.*)\]$", text.strip())
    if not m:
        raise TextError(f"not a type: {text!r}")
    return TensorType(m[1], tuple(_size(d) for d in _split_top(m[2])))


def _array(body: str) -> np.ndarray[Any, Any]:
    kind, shape_text, *rest = _split_top(body)
    dtype: Any = {"f64": np.float64, "i64": np.int64, "bool": np.bool_}[kind]
    shape = tuple(int(d) for d in _split_top(shape_text[1:-1]))
    if len(rest) == 1 and rest[0].startswith("base64:"):
        return np.frombuffer(base64.b64decode(rest[0][7:]), dtype=dtype).reshape(shape).copy()
    values = [v == "True" if kind == "bool" else float(v) if kind == "f64" else int(v) for v in rest]
    return np.array(values, dtype=dtype).reshape(shape)


def _literal(text: str) -> Any:
    words = {"none": None, "true": True, "false": False, "inf": float("inf"), "-inf": float("-inf")}
    if text in words:
        return words[text]
    if text.startswith('"'):
        return json.loads(text)
    if text.startswith("array("):
        return _array(text[6:-1])
    if text.startswith("{"):
        return _attrs(text)
    if text.startswith("(") and text.endswith(")") and not re.search(r"=-?\d+$", text):
        return tuple(_literal(v) for v in _split_top(text[1:-1]))
    if re.match(r"-?\d+(\.\d*)?(e[-+]?\d+)?$", text) and not _NUMBER.match(text):
        return float(text)
    return _size(text)


def _attrs(text: str) -> dict[str, Any]:
    result = {}
    for item in _split_top(text.strip()[1:-1]):
        key, _, value = item.partition("=")
        result[key] = _literal(value)
    return result


def _values(text: str) -> list[Value]:
    result = []
    for item in _split_top(text):
        name, _, type_text = item.partition(": ")
        result.append(Value(name.lstrip("%"), _type(type_text)))
    return result


def _closing(text: str, start: int) -> int:
    """Index of the bracket that closes the one at `start`."""
    depth, quoted, i = 0, False, start
    while i < len(text):
        ch = text[i]
        if quoted:
            i += ch == "\\"
            quoted = ch != '"'
        elif ch == '"':
            quoted = True
        elif ch in "([{":
            depth += 1
        elif ch in ")]}":
            depth -= 1
            if depth == 0:
                return i
        i += 1
    raise TextError(f"no bracket closes {text[start:]!r}")


def _parse_node(line: str, env: dict[str, Value]) -> Node:
    m = re.search(r" = (\w+)\(", line)
    if not m:
        raise TextError(f"not a node: {line!r}")
    outputs = _values(line[: m.start()])
    end = _closing(line, m.end() - 1)
    inputs = tuple(env[n.lstrip("%")] for n in _split_top(line[m.end() : end]))
    rest, attrs, loc = line[end + 1 :].strip(), {}, ""
    if rest.startswith("{"):
        close = _closing(rest, 0)
        attrs, rest = _attrs(rest[: close + 1]), rest[close + 1 :].strip()
    if rest.startswith("@ "):
        loc = json.loads(rest[2:])
    env.update((o.name, o) for o in outputs)
    return Node(m[1], inputs, tuple(outputs), attrs, loc)


def _parse_function(lines: list[str]) -> Function:
    head = re.match(r'fn ("(?:[^"\\]|\\.)*")(?: = (\w+)\.(\w+) )?', lines[0])
    if not head:
        raise TextError(f"not a function: {lines[0]!r}")
    rest, origin = lines[0][head.end() :].strip(), None
    if head[2]:
        close = _closing(rest, 0)
        origin = Origin(head[2], _attrs(rest[: close + 1]), head[3])
        rest = rest[close + 1 :].strip()
    inputs = _values(rest[1 : _closing(rest, 0)])
    env = {v.name: v for v in inputs}
    params, nodes, outputs, doc = [], [], (), ""
    for line in lines[1:]:
        if line.startswith("doc "):
            doc = json.loads(line[4:])
        elif m := re.match(r"(weight|buffer) %(\S+): (.*) = (\w+) (\{.*\})$", line):
            value = Value(m[2], _type(m[3]))
            env[value.name] = value
            params.append(Param(value, Init(m[4], _attrs(m[5])), m[1]))
        elif line.startswith("return"):
            outputs = tuple(env[n.lstrip("%")] for n in _split_top(line[6:]))  # type: ignore[assignment]
        else:
            nodes.append(_parse_node(line, env))
    return Function(json.loads(head[1]), tuple(inputs), tuple(params), tuple(nodes), outputs, origin, doc)


def module_from_text(text: str) -> Module:
    """Parses the text form. Raises TextError with the line number."""
    lines = text.splitlines()
    if not lines or lines[0] != HEADER:
        raise TextError(f"line 1: wants {HEADER!r}")
    entries: dict[str, str] = {}
    functions: dict[str, Function] = {}
    block: list[str] = []
    for number, raw in enumerate(lines[1:], start=2):
        line = raw.strip()
        try:
            if line.startswith("entry "):
                name, _, fn = line[6:].partition(" = ")
                entries[name] = json.loads(fn)
            elif line == "}":
                fn_parsed = _parse_function(block)
                functions[fn_parsed.name] = fn_parsed
                block = []
            elif line:
                block.append(line)
        except (KeyError, ValueError, IndexError, TextError) as error:
            raise TextError(f"line {number}: {error}") from None
    return Module(functions, entries)
