"""A class of optional parts, specialised to one choice of them, in a form independent of how it is written."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Mapping
from typing import Any


class _Undecided(Exception):
    """A statement that has no such form."""


def specialised(source: str, values: Mapping[str, Any] | None = None, optional: Mapping[str, str] | None = None) -> Any:
    """The members, initial values and results of a class, with the arms that `values` of its constructor select.

    Equal for two classes that compute the same by the same operations, whatever the names of locals. `optional` are the
    constructor arguments that `values` may lack. Texts with statements of other forms are equal only to themselves.
    """
    source = source.replace("@CLASS@", "CLASS")
    try:
        (definition,) = ast.parse(source).body
        assert isinstance(definition, ast.ClassDef)
        return _Class(definition, values or {}, optional or {}).form()
    except _Undecided:
        return source


class _Class:
    def __init__(self, definition: ast.ClassDef, values: Mapping[str, Any], optional: Mapping[str, str]) -> None:
        self.definition, self.values, self.optional = definition, values, optional
        self.missing: set[str] = set()  # members that are None
        self.constants: dict[str, str] = {}  # what buffers that no checkpoint has hold

    def form(self) -> Any:
        methods = [node for node in self.definition.body if isinstance(node, ast.FunctionDef)]
        found: dict[str, Any] = {}
        for method in methods:
            statements = method.body[1:] if ast.get_docstring(method) is not None else method.body
            if method.name == "__init__":
                found[method.name] = self._constructor(statements)
            elif method.name == "reset_parameters":
                found[method.name] = sorted(self._unrolled(statements))
            else:
                found[method.name] = self._result(statements, [argument.arg for argument in method.args.args])
        return found

    def _constructor(self, statements: list[ast.stmt]) -> list[str]:
        """The statements that create members. Arguments that are only kept show in the results that use them."""
        found = []
        for statement in statements:
            if isinstance(statement, ast.Assign):
                value = statement.value
                (target,) = statement.targets
                if not isinstance(target, ast.Attribute):
                    raise _Undecided
                if isinstance(value, ast.Name):
                    continue
                if isinstance(value, ast.IfExp) and isinstance(value.test, ast.Name):
                    if not self.values.get(value.test.id):
                        self.missing.add(target.attr)
                        continue
                    statement = ast.Assign([target], value.body)
            match statement:
                case ast.Expr(
                    value=ast.Call(
                        func=ast.Attribute(attr="register_buffer"),
                        args=[ast.Constant(value=str() as name), value],
                        keywords=[ast.keyword(arg="persistent", value=ast.Constant(value=False))],
                    )
                ):
                    self.constants[name] = self._value(value, {})
                    continue
            found.append(ast.dump(statement))
        return found

    def _decided(self, test: ast.expr) -> bool:
        match test:
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return not self._decided(operand)
            case ast.Compare(left=ast.Attribute(attr=name), ops=[op], comparators=[ast.Constant(value=None)]):
                return (name in self.missing) == isinstance(op, ast.Is)
            case ast.Attribute(attr=name):
                if self.optional.get(name) != "bool" and self.optional.get(name.removesuffix("_")) != "bool":
                    raise _Undecided
                return bool(self.values.get(name, self.values.get(name.removesuffix("_"))))
        raise _Undecided

    def _unrolled(self, statements: list[ast.stmt]) -> list[str]:
        found = []
        for statement in statements:
            match statement:
                case ast.If():
                    found += self._unrolled(statement.body if self._decided(statement.test) else statement.orelse)
                case ast.For(target=ast.Name(id=name), iter=ast.Tuple(elts=elements)):
                    for element in elements:
                        text = [ast.unparse(_Named(name, element).visit(_copied(inner))) for inner in statement.body]
                        found += text
                case _:
                    found.append(ast.unparse(statement))
        return found

    def _result(self, statements: list[ast.stmt], arguments: list[str]) -> str:
        """A digest of the operations that compute the value that a method returns."""
        return self._run(statements, {name: _digest("argument", i) for i, name in enumerate(arguments)}) or ""

    def _run(self, statements: list[ast.stmt], names: dict[str, str]) -> str | None:
        for statement in statements:
            match statement:
                case ast.Return(value=ast.expr() as value):
                    return self._value(value, names)
                case ast.If():
                    taken = statement.body if self._decided(statement.test) else statement.orelse
                    if (result := self._run(taken, names)) is not None:
                        return result
                case ast.Assign(targets=[ast.Name(id=name)], value=value):
                    names[name] = self._value(value, names)
                case ast.Assign(targets=[ast.Tuple(elts=elements)], value=value):
                    if any(not isinstance(element, ast.Name) for element in elements):
                        raise _Undecided
                    if isinstance(value, ast.Tuple):
                        found = [self._value(part, names) for part in value.elts]
                    else:
                        whole = self._value(value, names)
                        found = [_digest("item", whole, i, len(elements)) for i in range(len(elements))]
                    own = [element.id for element in elements if isinstance(element, ast.Name)]
                    names |= dict(zip(own, found, strict=True))
                case ast.For(target=ast.Name(id=item), iter=iterable):
                    used = [n.id for n in ast.walk(statement) if isinstance(n, ast.Name)]
                    carried = [name for name in dict.fromkeys(used) if name in names]
                    inner = names | {name: _digest("carried", i) for i, name in enumerate(carried)}
                    inner[item] = _digest("item of a loop")
                    if self._run(statement.body, inner) is not None:
                        raise _Undecided
                    loop = self._value(iterable, names), [(names[name], inner[name]) for name in carried]
                    made = {name: _digest("last of a loop", loop, v) for name, v in inner.items() if name not in names}
                    names |= {name: _digest("loop", loop, i) for i, name in enumerate(carried)} | made
                case _:
                    raise _Undecided
        return None

    def _value(self, node: ast.AST, names: Mapping[str, str]) -> str:
        match node:
            case ast.Name(id=name) if name in names:
                return names[name]
            case ast.Attribute(value=ast.Name(id="self"), attr=name) if name in self.constants:
                return _digest("constant", self.constants[name])
            case ast.Lambda() | ast.ListComp() | ast.GeneratorExp():
                raise _Undecided
        fields: list[Any] = []
        for name, value in ast.iter_fields(node):
            values = value if isinstance(value, list) else [value]
            each = [self._value(v, names) if isinstance(v, ast.AST) else repr(v) for v in values]
            fields.append((name, tuple(each)))
        return _digest(type(node).__name__, *fields)


def _digest(*parts: Any) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()


class _Named(ast.NodeTransformer):
    """Puts an expression in place of a name."""

    def __init__(self, name: str, value: ast.expr) -> None:
        self.name, self.value = name, value

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return self.value if node.id == self.name else node


def _copied(node: ast.stmt) -> ast.stmt:
    (copy,) = ast.parse(ast.unparse(node)).body
    return copy
