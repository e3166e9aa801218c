"""Patterns over def-use chains, written as Python expressions of ops.

    (d := x - mean(x)) * rsqrt(mean(d * d) + EPS)

A lower-case name is any value, the same one at each occurrence; `(d := …)` names the result of a subexpression. A name
in capitals is a constant of one element; a number is a constant of that value. `f(x, axis=-1)` is op f with that
attribute; `+` and `*` match in either order.
"""

from __future__ import annotations

import ast
import functools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from latentc.ir.core import Node, Uses, Value, frozen
from latentc.ir.text import node_text

_OPERATORS = {ast.Add: "add", ast.Sub: "sub", ast.Mult: "mul", ast.Div: "div", ast.Pow: "pow"}
_COMMUTES = ("add", "mul")
_CLOSE = 1e-6  # relative tolerance of constants, which people write with few digits


@dataclass(frozen=True)
class Any_:
    """A value called `name`."""

    name: str


@dataclass(frozen=True)
class Number:
    """A constant of one element: called `name`, or equal to `value`."""

    name: str = ""
    value: float = math.nan


@dataclass(frozen=True)
class Apply:
    """A node of `op` whose operands match and that has these attributes among others; its result is called `name`."""

    op: str
    operands: tuple[Pattern, ...]
    attrs: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""


Pattern = Any_ | Number | Apply


@functools.cache
def parse(text: str) -> Apply:
    """Parses a pattern. Raises ValueError for other text."""
    found = _parsed(ast.parse(text, mode="eval").body)
    if not isinstance(found, Apply):
        raise ValueError(f"{text!r} is not an op")
    return found


def _parsed(node: ast.expr) -> Pattern:
    match node:
        case ast.NamedExpr(target=ast.Name(id=name), value=inner):
            part = _parsed(inner)
            if isinstance(part, Apply):
                return Apply(part.op, part.operands, part.attrs, name)
        case ast.Name(id=name):
            return Number(name) if name.isupper() else Any_(name)
        case ast.Constant(value=int() | float() as value):
            return Number(value=float(value))
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
            return Number(value=-float(value))
        case ast.UnaryOp(op=ast.USub(), operand=inner):
            return Apply("neg", (_parsed(inner),))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            return Apply(_OPERATORS[type(op)], (_parsed(left), _parsed(right)))
        case ast.Call(func=ast.Name(id=op), args=args, keywords=keywords):
            attrs = {k.arg: ast.literal_eval(k.value) for k in keywords if k.arg is not None}
            return Apply(op, tuple(map(_parsed, args)), attrs)
    raise ValueError(f"{ast.unparse(node)!r} cannot be part of a pattern")


@dataclass(frozen=True)
class Match:
    """A place where a pattern matches: its values and numbers by name, and its nodes, the root first."""

    uses: Uses
    values: Mapping[str, Value] = field(default_factory=dict)
    numbers: Mapping[str, float] = field(default_factory=dict)
    nodes: tuple[Node, ...] = ()

    @property
    def root(self) -> Node:
        return self.nodes[0]

    def node(self, name: str) -> Node:
        """The node that computes a named value. Raises KeyError for an input or a param."""
        return self.uses.made_by[self.values[name]]

    def shape(self, name: str) -> tuple[Any, ...]:
        return self.values[name].type.shape

    def attr(self, name: str, key: str) -> Any:
        """An attribute of the node that computes a named value."""
        return self.node(name).attrs[key]


class Matcher:
    """Matches of one pattern; `nearest` is (number of nodes that matched, reason) of the best failure."""

    def __init__(self, uses: Uses, pattern: Apply) -> None:
        self.uses, self.pattern = uses, pattern
        self.nearest: tuple[int, str] = (0, "")

    def at(self, node: Node) -> Iterator[Match]:
        """Every match of the pattern with `node` as its root."""
        self.nearest = (0, "")
        if node.op == self.pattern.op:
            yield from self._apply(self.pattern, node, Match(self.uses))

    def miss(self, depth: int, reason: str) -> None:
        if depth > self.nearest[0]:
            self.nearest = (depth, reason)

    def _value(self, pattern: Pattern, value: Value, found: Match) -> Iterator[Match]:
        depth = len(found.nodes)
        match pattern:
            case Any_(name):
                if found.values.get(name, value) is value:
                    yield Match(self.uses, {**found.values, name: value}, found.numbers, found.nodes)
                else:
                    self.miss(depth, f"%{value.name} is not %{found.values[name].name}")
            case Number(name, wanted):
                number = self.uses.number(value)
                if number is None:
                    self.miss(depth, f"%{value.name} is not a constant of one element")
                elif not name and not math.isclose(number, wanted, rel_tol=_CLOSE):
                    self.miss(depth, f"%{value.name} is {number:g}, not {wanted:g}")
                elif name and found.numbers.get(name, number) != number:
                    self.miss(depth, f"%{value.name} is {number:g}, not {found.numbers[name]:g} as before")
                else:
                    numbers = {**found.numbers, name: number} if name else found.numbers
                    yield Match(self.uses, found.values, numbers, found.nodes)
            case Apply():
                node = self.uses.made_by.get(value)
                if node is None or node.op != pattern.op:
                    what = "an input" if node is None else node.op
                    self.miss(depth, f"%{value.name} is {what}, not {pattern.op}")
                else:
                    yield from self._apply(pattern, node, found)

    def _apply(self, pattern: Apply, node: Node, found: Match) -> Iterator[Match]:
        depth = len(found.nodes)
        several = len(node.outputs) != 1 and bool(found.nodes)  # only the root may have several outputs
        if several or len(node.inputs) != len(pattern.operands):
            self.miss(depth, f"{node.op} has {len(node.inputs)} operands, not {len(pattern.operands)}")
            return
        for key, wanted in pattern.attrs.items():
            if frozen(node.attrs.get(key)) != frozen(wanted):
                self.miss(depth, f"{key} of {node_text(node)} is {node.attrs.get(key)}, not {wanted}")
                return
        values = found.values
        if pattern.name:
            values = {**values, pattern.name: node.outputs[0]}
        nodes = found.nodes if node in found.nodes else (*found.nodes, node)
        start = Match(self.uses, values, found.numbers, nodes)
        orders = [node.inputs]
        if pattern.op in _COMMUTES and node.inputs[0] is not node.inputs[1]:
            orders.append(node.inputs[::-1])
        for order in orders:
            yield from self._operands(pattern.operands, order, start)

    def _operands(self, patterns: tuple[Pattern, ...], values: tuple[Value, ...], found: Match) -> Iterator[Match]:
        if not patterns:
            yield found
            return
        for first in self._value(patterns[0], values[0], found):
            yield from self._operands(patterns[1:], values[1:], first)
