"""The values that a body of straight statements and loops over constants computes, however it is written."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Sequence
from typing import Any


class Unknown(Exception):
    """A statement of a kind that is not compared."""


def _digest(*parts: Any) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def outcome(lines: Sequence[str], inputs: Sequence[str], functions: str = "") -> str | None:
    """The operations that compute the result of a body. Raises Unknown for statements of other kinds.

    `functions` is the text of functions that it calls, whose statements count in place of the calls.
    """
    names: dict[str, Any] = {name: _digest("input", name) for name in inputs}
    names |= {node.name: node for node in ast.parse(functions).body if isinstance(node, ast.FunctionDef)}
    return _run(body_of(lines), names)


def body_of(lines: Sequence[str]) -> list[ast.stmt]:
    """The statements of a body; their lines are counted from 2."""
    (function,) = ast.parse("def f():\n" + "\n".join(f" {line}" for line in lines)).body
    assert isinstance(function, ast.FunctionDef)
    return function.body


def _run(statements: Sequence[ast.stmt], names: dict[str, Any]) -> Any:
    for statement in statements:
        match statement:
            case ast.Return(value=ast.expr() as value):
                return _key(_value(value, names))
            case ast.Assign(targets=[target], value=value):
                _assign(target, _value(value, names), names)
            case ast.Expr(ast.Call(ast.Attribute(ast.Name(name), "append"), [value])) if isinstance(names[name], list):
                names[name] = [*names[name], _value(value, names)]
            case ast.For(target=target, iter=over, body=body, orelse=[]) if (items := _items(over, names)) is not None:
                for each in items:
                    _assign(target, each, names)
                    _run(body, names)
            case ast.For():  # a loop over a table: what it assigns depends on all that it reads
                whole = _unread(statement, names)
                stored = (n for n in ast.walk(statement) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store))
                names |= {node.id: _digest("loop", whole, node.id) for node in stored}
            case _:
                raise Unknown
    return None


def _unread(node: ast.AST, names: dict[str, Any]) -> str:
    """The digest of what is compared by its text, and by the values of the names in it."""
    read = {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and n.id in names}
    return _digest(ast.dump(node), sorted((name, _key(names[name])) for name in read))


def _assign(target: ast.expr, value: Any, names: dict[str, Any]) -> None:
    match target:
        case ast.Name(name):
            names[name] = value
        case ast.Tuple(parts):
            if isinstance(value, tuple):
                values = list(value)
            else:
                whole, stars = _key(value), [isinstance(part, ast.Starred) for part in parts]
                values = [_digest("item", whole, i, len(parts), stars) for i in range(len(parts))]
            for part, own in zip(parts, values, strict=True):
                _assign(part.value if isinstance(part, ast.Starred) else part, own, names)
        case _:
            raise Unknown


def _items(over: ast.expr, names: dict[str, Any]) -> list[Any] | None:
    """The values that a loop runs over, if they are known."""
    match over:
        case ast.Tuple(parts):
            return [_value(part, names) for part in parts]
        case ast.Call(ast.Name("range"), arguments) if all(isinstance(a, ast.Constant) for a in arguments):
            return list(range(*(_value(a, names) for a in arguments)))
        case ast.Call(ast.Name("zip"), arguments):
            columns = [found for a in arguments if (found := _items(a, names)) is not None]
            return list(zip(*columns, strict=True)) if len(columns) == len(arguments) else None
        case ast.Call(ast.Name("enumerate"), [inner, *start]) if (found := _items(inner, names)) is not None:
            return list(enumerate(found, *(_value(a, names) for a in start)))
    return None


def _key(value: Any) -> str:
    if isinstance(value, list | tuple):
        return _digest("sequence", *map(_key, value))
    return value if isinstance(value, str) else _digest("number", type(value).__name__, value)


def _value(node: ast.AST, names: dict[str, Any]) -> Any:
    """A number, a list, or the digest of an expression."""
    match node:
        case ast.Name(name) if name in names:
            return names[name]
        case ast.Constant(int() | float() as number) if not isinstance(number, bool):
            return number
        case ast.List(parts):
            found: list[Any] = []
            for part in parts:
                inner = _value(part.value if isinstance(part, ast.Starred) else part, names)
                starred = isinstance(part, ast.Starred)
                found += inner if starred and isinstance(inner, list) else [_digest("*", inner)] if starred else [inner]
            return found
        case ast.BinOp(left, op, right):
            one, other = _value(left, names), _value(right, names)
            if isinstance(one, int | float) and isinstance(other, int | float):
                match op:
                    case ast.Add():
                        return one + other
                    case ast.Sub():
                        return one - other
                    case ast.Div():
                        return one / other
            return _digest(type(op).__name__, _key(one), _key(other))
        case ast.Call(ast.Name(name), arguments, []) if isinstance(names.get(name), ast.FunctionDef):
            function = names[name]
            given = [_value(argument, names) for argument in arguments]
            inner = {argument.arg: value for argument, value in zip(function.args.args, given, strict=True)}
            return _run(function.body, inner)
        case ast.Lambda() | ast.ListComp() | ast.GeneratorExp():
            return _unread(node, names)
    fields: list[Any] = []
    for name, part in ast.iter_fields(node):
        parts = part if isinstance(part, list) else [part]
        fields.append((name, [_key(_value(p, names)) if isinstance(p, ast.AST) else repr(p) for p in parts]))
    return _digest(type(node).__name__, *fields)
