"""The text form of a module, which parses back to an equal one; for `show`, golden tests and bug reports.

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
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from latentc.ir.core import Function, Module, Node, Param, Recipe
from latentc.ir.types import NUMPY, Sym

HEADER = "latentc-ir 1"
_INLINE = 16  # arrays up to this many elements print in full


_KINDS = {"f": "f64", "i": "i64", "u": "i64", "b": "bool"}  # numpy's kind -> dtype of a literal


def _array_text(array: np.ndarray[Any, Any], full: bool) -> str:
    kind = _KINDS[array.dtype.kind]
    array = array.astype(NUMPY[kind])
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
    init = f"{param.init.kind} {attrs_text(param.init.args, full)}"
    value = init if param.recipe is None else recipe_text(param.recipe, full)
    return f"{param.kind} %{param.name}: {param.type} = {value}"


def recipe_text(source: Recipe | Param, full: bool = True) -> str:
    """A recipe as text; the weights it starts from are in brackets."""
    if isinstance(source, Param):
        return f"[{_param_text(source, full)}]"
    attrs = f" {attrs_text(source.attrs, full)}" if source.attrs else ""
    return f"{source.op}({', '.join(recipe_text(arg, full) for arg in source.args)}){attrs}"


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
