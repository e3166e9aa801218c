"""Formulas of components as source text for an emitted project: the same text, specialised to one spec.

A function is printed with what the spec decides: a field of the component is a named constant, a branch on an option is
taken, `m.exp` is `np.exp`. The operations and their order stay, so that the text computes the same bits.
"""

from __future__ import annotations

import ast
import copy
import inspect
import math
import textwrap
import types
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import numpy as np

MATHS = {"exp": "np.exp", "log": "np.log", "sqrt": "np.sqrt", "sin": "np.sin", "cos": "np.cos", "atan": "np.arctan"}
MATHS |= {"floor": "np.floor"}
NAMES = {"steps": "timesteps"}
"""Names of constants that differ from the field's: `steps` are the sampler's."""

DOCS = {
    "derivatives": "d alpha / dt and d sigma / dt.",
    "network_time": "Time input of the network at time t.",
    "input_scale": "Factor of the network's input.",
    "alpha": "Scale of the data.",
    "sigma": "Scale of the noise.",
}


class NoSourceError(ValueError):
    """A formula has no source text."""


class Sources:
    """Functions and constants that formulas need, as text: `functions` {name: source}, `constants` {name: value}."""

    def __init__(self) -> None:
        self.functions: dict[str, str] = {}
        self.constants: dict[str, float] = {}
        self._of: dict[str, Any] = {}

    def function(self, fn: Callable[..., Any], **static: Any) -> str:
        """The name of a pure function of numpy arrays, printed for the arguments `static`, which it then lacks."""
        return self._add(fn.__name__.strip("_"), fn, None, static)

    def method(self, owner: Any, name: str, as_name: str = "") -> str:
        """The name of a formula `name(self, m, t)` of a component, printed as a function of t."""
        return self._add(as_name or name.strip("_"), getattr(type(owner), name), owner, {})

    def expression(self, owner: Any, name: str) -> str | None:
        """A formula of a component as an expression of t; None if it is not just one."""
        body = _printed(self, getattr(type(owner), name), owner, {}).body
        (result,) = body[1:] if len(body) == 2 and _is_text(body[0]) else body[:1]
        if len(body) > 2 or not isinstance(result, ast.Return) or result.value is None:
            return None
        return ast.unparse(result.value)

    def inline(self, owner: Any, name: str) -> str:
        """A formula of a component at t, as an expression or a call."""
        return self.expression(owner, name) or f"{self.method(owner, name)}(t)"

    def constant(self, name: str, value: float) -> str:
        """The name of a number."""
        if self.constants.setdefault(name, value) != value:
            raise NoSourceError(f"{name} has two values")
        return name

    def define(self, name: str, text: str) -> str:
        """The name of a function with this source."""
        self.functions[name] = text
        return name

    def _add(self, name: str, fn: Callable[..., Any], owner: Any, static: Mapping[str, Any]) -> str:
        key = (inspect.unwrap(fn), id(owner), sorted(static.items(), key=repr))
        if self._of.setdefault(name, key) != key:
            raise NoSourceError(f"two functions are called {name}")
        if name not in self.functions:
            tree = _printed(self, fn, owner, static)
            tree.name = name
            self.functions[name] = ast.unparse(tree)
        return name


def _printed(sources: Sources, fn: Callable[..., Any], owner: Any, static: Mapping[str, Any]) -> ast.FunctionDef:
    """A function's definition, specialised. NoSourceError: it has no source, or uses what cannot be printed."""
    try:
        return _Printed(sources, fn, owner, static).tree
    except (AssertionError, AttributeError, LookupError, OSError, SyntaxError, TypeError, ValueError) as error:
        raise NoSourceError(f"`{getattr(fn, '__name__', fn)}` cannot be printed: {error}") from error


class _Printed(ast.NodeTransformer):
    """The definition of a function, specialised: `tree`."""

    def __init__(self, sources: Sources, fn: Callable[..., Any], owner: Any, static: Mapping[str, Any]) -> None:
        self.sources, self.owner, self.static = sources, owner, dict(static)
        self.short: dict[str, ast.expr] = {}
        fn = inspect.unwrap(fn)
        self.globals = fn.__globals__
        (tree,) = ast.parse(_source(fn)).body
        assert isinstance(tree, ast.FunctionDef)
        self._signature(tree, fn)
        tree.body = _used(self._block(tree.body))
        self.tree = ast.fix_missing_locations(tree)

    def _signature(self, tree: ast.FunctionDef, fn: Callable[..., Any]) -> None:
        tree.decorator_list = []
        known = {"self", "m", *self.static}
        given = tree.args
        values: list[ast.expr | None] = [None] * (len(given.args) - len(given.defaults))
        pairs = [(a, d) for a, d in zip(given.args, [*values, *given.defaults], strict=True) if a.arg not in known]
        given.args = [a for a, _ in pairs]
        given.defaults = [d for _, d in pairs if d is not None]
        for arg in given.args:
            arg.annotation = _annotation(arg.annotation)
        tree.returns = _annotation(tree.returns)
        if self.owner is not None and (text := DOCS.get(tree.name, "")):
            documented = ast.get_docstring(tree) is not None
            tree.body[:documented] = [ast.Expr(ast.Constant(text))]

    def _known(self, node: ast.expr) -> Any:
        """The value of an expression that the spec decides. LookupError if it does not."""
        names = {one.id for one in ast.walk(node) if isinstance(one, ast.Name)}
        held = {**self.static, **({} if self.owner is None else {"self": self.owner})}
        if not names <= {*held, "math"} or (not names and not isinstance(node, ast.Constant)):
            raise LookupError
        code = compile(ast.fix_missing_locations(ast.Expression(node)), "formula", "eval")
        return eval(code, {"math": math}, held)  # names of the component's own source

    def _block(self, statements: list[ast.stmt]) -> list[ast.stmt]:
        """Statements up to the first that returns."""
        made: list[ast.stmt] = []
        for one in statements:
            new = self.visit(one)
            made += [] if new is None else new if isinstance(new, list) else [new]
            if made and isinstance(made[-1], ast.Return):
                break
        return made

    # ---- what the spec decides

    def visit_If(self, node: ast.If) -> Any:
        try:
            taken = node.body if self._known(node.test) else node.orelse
        except LookupError:
            node.test = self.visit(node.test)
            node.body, node.orelse = self._block(node.body), self._block(node.orelse)
            return node
        return self._block(taken)

    def visit_For(self, node: ast.For) -> Any:
        node.iter, node.target = self.visit(node.iter), self.visit(node.target)
        node.body = self._block(node.body)
        return node

    def visit_IfExp(self, node: ast.IfExp) -> Any:
        if ast.unparse(node.test) == "fractional(t)":  # the text has floats only
            return self.visit(node.body)
        try:
            return self.visit(node.body if self._known(node.test) else node.orelse)
        except LookupError:
            return self.generic_visit(node)

    def visit_Match(self, node: ast.Match) -> Any:
        subject = self._known(node.subject)
        for case in node.cases:
            pattern = case.pattern
            other = isinstance(pattern, ast.MatchAs) and pattern.pattern is None
            if other or (isinstance(pattern, ast.MatchValue) and ast.literal_eval(pattern.value) == subject):
                return self._block(case.body)
        raise NoSourceError("no case is taken")

    def visit_With(self, node: ast.With) -> Any:
        return self._block(node.body)  # the text has no warnings to turn off

    def visit_Assert(self, node: ast.Assert) -> Any:
        return None

    def visit_Assign(self, node: ast.Assign) -> Any:
        self.generic_visit(node)
        (target,) = node.targets
        if self.owner is not None and isinstance(target, ast.Name) and _is_short(node.value):
            self.short[target.id] = node.value  # formulas assign each name once
            return None
        return node

    # ---- names and numbers

    def visit_Name(self, node: ast.Name) -> Any:
        if isinstance(node.ctx, ast.Store):
            self.static.pop(node.id, None)
            return node
        if node.id in self.static:
            return _number(self.static[node.id])
        if node.id in self.short:
            return copy.deepcopy(self.short[node.id])
        found = self.globals.get(node.id)
        if callable(found) and inspect.isfunction(inspect.unwrap(found)):
            return ast.Name(self.sources.function(found), ast.Load())
        if isinstance(found, int | float):
            return _number(found)
        if isinstance(found, tuple) and node.id.isupper():
            return ast.parse(repr(found), mode="eval").body
        if found is not None and not isinstance(found, type | types.ModuleType):
            raise NoSourceError(f"`{node.id}` is no number")
        return node

    def visit_Attribute(self, node: ast.Attribute) -> Any:
        if not (isinstance(node.value, ast.Name) and node.value.id == "self"):
            return self.generic_visit(node)
        value = getattr(self.owner, node.attr)
        field = type(self.owner).model_fields.get(node.attr)
        if field is not None and isinstance(value, int | float) and not isinstance(value, bool):
            name = NAMES.get(node.attr, node.attr).upper()
            return ast.Name(self.sources.constant(name, value), ast.Load())
        if value is None or isinstance(value, str | bool):
            return ast.Constant(value)
        of = getattr(type(self.owner), node.attr, None)
        if isinstance(of, property) and isinstance(value, int | float | np.floating):
            try:
                inner = _printed(self.sources, of.fget, self.owner, {}).body  # type: ignore[arg-type]
            except NoSourceError:
                return ast.Name(self.sources.constant(node.attr.upper(), float(value)), ast.Load())
            result = inner[-1]
            if (
                len(inner) <= 2
                and isinstance(result, ast.Return)
                and result.value is not None
                and not _flags(of, self.owner)
            ):
                return result.value
            return _number(float(value))
        raise NoSourceError(f"`{node.attr}` is no number")

    def visit_Call(self, node: ast.Call) -> Any:
        of = node.func
        if isinstance(of, ast.Attribute) and isinstance(of.value, ast.Name) and of.value.id == "m":
            return self._maths(of.attr, node)
        if isinstance(of, ast.Attribute) and isinstance(of.value, ast.Name) and of.value.id == "self":
            args = [a for a in node.args if not (isinstance(a, ast.Name) and a.id == "m")]
            visited = [self.visit(a) for a in args]
            inner = _Printed(Sources(), getattr(type(self.owner), of.attr), self.owner, {}).tree
            if isinstance(inner.body[-1], ast.Return) and inner.body[-1].value is not None and len(inner.body) < 3:
                result = inner.body[-1].value
                if len(visited) == 1 and _is_short(result) and isinstance(visited[0], ast.Name):
                    (given,) = inner.args.args
                    return _Renamed({given.arg: visited[0]}).visit(result)
            name = self.sources.method(self.owner, of.attr, f"{of.attr.strip('_')}_of")
            return ast.Call(ast.Name(name, ast.Load()), visited, [])
        return self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> Any:
        self.generic_visit(node)
        if all(
            isinstance(one, ast.Constant | ast.UnaryOp | ast.operator | ast.unaryop | ast.BinOp)
            for one in ast.walk(node)
        ):
            return _number(eval(compile(ast.fix_missing_locations(ast.Expression(node)), "formula", "eval"), {}))
        return node

    def _maths(self, name: str, node: ast.Call) -> ast.expr:
        args = [self.visit(a) for a in node.args]
        if name in MATHS:
            return ast.Call(ast.parse(MATHS[name], mode="eval").body, args, [])
        match name:
            case "affine":
                x, scale, shift = args
                if self._is(scale, node.args[1], 1.0) is False:
                    x = ast.BinOp(x, ast.Mult(), scale)
                return x if self._is(shift, node.args[2], 0.0) else ast.BinOp(x, ast.Add(), shift)
            case "real":
                return args[0]
            case "clamp":
                return ast.Call(ast.parse("np.clip", mode="eval").body, args, [])
            case "single":
                text = ast.parse("np.asarray(x, np.float32).astype(np.float64)", mode="eval").body
                text.func.value.args[0] = args[0]  # type: ignore[attr-defined]
                return text
        raise NoSourceError(f"`{name}` has no text")

    def _is(self, made: ast.expr, source: ast.expr, value: float) -> bool:
        try:
            return bool(self._known(source) == value)
        except LookupError:
            return isinstance(made, ast.Constant) and made.value == value


class _Renamed(ast.NodeTransformer):
    """Names replaced by expressions."""

    def __init__(self, by: Mapping[str, ast.expr]) -> None:
        self.by = by

    def visit_Name(self, node: ast.Name) -> Any:
        return self.by.get(node.id, node)


def _is_short(node: ast.expr) -> bool:
    """True for a number, a name, or a sum or product of two such."""
    parts = list(ast.walk(node))
    return len(parts) <= 7 and all(
        isinstance(
            one, ast.Constant | ast.Name | ast.BinOp | ast.UnaryOp | ast.operator | ast.unaryop | ast.expr_context
        )
        for one in parts
    )


@cache
def _source(fn: Callable[..., Any]) -> str:
    return textwrap.dedent(inspect.getsource(fn))


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _number(value: Any) -> ast.expr:
    return ast.parse(repr(value), mode="eval").body


def _annotation(given: ast.expr | None) -> ast.expr | None:
    """Annotations that the emitted file knows: `Any` is an array."""
    if given is None:
        return None
    text = ast.unparse(given).replace("Any", "Array").replace("ArrayLike", "Array").replace("Timesteps", "Array")
    names = {one.id for one in ast.walk(ast.parse(text)) if isinstance(one, ast.Name)}
    known = names <= {"Array", "float", "int", "str", "bool", "dict", "tuple", "list", "None"}
    return ast.parse(text, mode="eval").body if known else None


def _flags(of: property, owner: Any) -> bool:
    """True if a property reads fields that choose rather than measure."""
    assert of.fget is not None
    tree = ast.parse(_source(of.fget))
    read = {one.attr for one in ast.walk(tree) if isinstance(one, ast.Attribute)}
    fields = type(owner).model_fields
    return any(name in fields and fields[name].annotation is not float for name in read)


def _used(body: list[ast.stmt]) -> list[ast.stmt]:
    """Statements without assignments to names that nothing reads."""
    while True:
        read = {
            one.id for s in body for one in ast.walk(s) if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Load)
        }
        kept = [
            s
            for s in body
            if not (isinstance(s, ast.Assign) and isinstance(s.targets[0], ast.Name) and s.targets[0].id not in read)
        ]
        if len(kept) == len(body):
            return kept
        body = kept
