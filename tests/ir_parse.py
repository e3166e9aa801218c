"""Parses the text form of a module, which `latentc.ir.text` describes and prints."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from latentc.ir.core import Function, Init, Module, Node, Origin, Param, Recipe, Value
from latentc.ir.recipes import MADE
from latentc.ir.text import HEADER
from latentc.ir.types import NUMPY, Named, Sym, TensorType

T = TypeVar("T")


class TextError(ValueError):
    """Text that is not a module; the message names the line."""


_EXPRESSION = r"[\w.()+*/% -]+"
_SIZE = re.compile(rf"({_EXPRESSION})(?::({_EXPRESSION}))?=(-?\d+)")  # `4 * dim=256`, `T:grid**2=16`
_RUN_TIME_SIZE = re.compile(r"(?:(\d+)\*)?([A-Z]\w*)")
_NUMBER = re.compile(r"-?(?:\d+(?:\.\d*)?(?:e[-+]?\d+)?|inf|nan)")
_CONSTANT = re.compile(r"(none|true|false)\b")
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_BASE64 = re.compile(r"base64:([\w+/=]*)")
_ELEMENT = re.compile(r"True|False|-?[\w.]+(?:[-+]\d+)?")
_VALUE = re.compile(r"%([\w.#\-]+)")
_NAME = re.compile(r"\w+")
_ENTRY = re.compile(r"[^\s=]+")
_PARAM = re.compile(r"(weight|buffer|state|calibrated)(?= %)")
_DTYPE = re.compile(rf"({'|'.join(NUMPY)})\[")
_BLANKS = re.compile(r"\s*")
_END = re.compile(r"\Z")
_READ: dict[str, Callable[[str], Any]] = {"f64": float, "i64": int, "bool": {"True": True, "False": False}.__getitem__}
_CONSTANTS = {"none": None, "true": True, "false": False}


class _Text:
    """A text, read from start to end. Each method reads one thing, or raises TextError if something else comes."""

    def __init__(self, text: str) -> None:
        self.text, self.at = text, 0

    def match(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        """Reads `pattern` if it comes next."""
        self.at = _BLANKS.match(self.text, self.at).end()  # type: ignore[union-attr]
        found = pattern.match(self.text, self.at)
        self.at = found.end() if found else self.at
        return found

    def take(self, pattern: re.Pattern[str], what: str) -> re.Match[str]:
        found = self.match(pattern)
        if found is None:
            raise self.error(what)
        return found

    def error(self, what: str) -> TextError:
        rest = self.text[self.at :].partition("\n")[0]
        return TextError(f"expected {what} at {rest!r}")

    def comes(self, mark: str) -> bool:
        """True if `mark` comes next; it is not read."""
        self.match(_BLANKS)
        return self.text.startswith(mark, self.at)

    def skip(self, mark: str) -> bool:
        """Reads `mark` if it comes next."""
        found = self.comes(mark)
        self.at += len(mark) * found
        return found

    def mark(self, mark: str) -> None:
        if not self.skip(mark):
            raise self.error(repr(mark))

    def many(self, item: Callable[[], T], close: str) -> tuple[T, ...]:
        """Items with commas between them, and the mark `close` after them."""
        found: list[T] = []
        while not self.skip(close):
            if found:
                self.mark(",")
            found.append(item())
        return tuple(found)

    # ---- attributes

    def string(self) -> str:
        return str(json.loads(self.take(_STRING, "a string")[0]))

    def number(self) -> int | float | Sym | None:
        """A number or size, if one comes next."""
        start = self.at
        if found := self.match(_SIZE):
            if found[1].count("(") == found[1].count(")"):
                return Named(int(found[3]), found[1], found[2] or "")
            self.at = start  # the first bracket opens a tuple
        if found := self.match(_RUN_TIME_SIZE):
            return Sym(found[2], int(found[1] or 1))
        if found := self.match(_NUMBER):
            return int(found[0]) if found[0].lstrip("-").isdigit() else float(found[0])
        return None

    def size(self) -> int | Sym:
        self.match(_BLANKS)
        start = self.at
        size = self.number()
        if not isinstance(size, int | Sym):
            self.at = start
            raise self.error("a size")
        return size

    def type(self) -> TensorType:
        dtype = self.take(_DTYPE, "a type")[1]
        return TensorType(dtype, self.many(self.size, "]"))

    def literal(self) -> Any:
        number = self.number()
        if number is not None:
            return number
        if found := self.match(_CONSTANT):
            return _CONSTANTS[found[1]]
        if self.comes('"'):
            return self.string()
        if self.comes("{"):
            return self.attrs()
        if self.skip("array("):
            return self._array()
        self.mark("(")
        return self.many(self.literal, ")")

    def _array(self) -> np.ndarray[Any, Any]:
        kind = self.take(_NAME, "a dtype")[0]
        self.mark(",")
        self.mark("[")
        shape = self.many(self.size, "]")
        dtype: Any = NUMPY[kind]
        if self.skip(",") and (found := self.match(_BASE64)):
            self.mark(")")
            whole: Any = np.frombuffer(base64.b64decode(found[1], validate=True), dtype)
            return np.array(whole.reshape(shape))
        read = _READ[kind]
        values = self.many(lambda: read(self.take(_ELEMENT, "an element")[0]), ")")
        return np.array(values, dtype).reshape(shape)

    def attrs(self) -> dict[str, Any]:
        self.mark("{")
        found: dict[str, Any] = {}

        def attribute() -> None:
            name = self.take(_NAME, "the name of an attribute")[0]
            if name in found:
                raise TextError(f"a second attribute {name}")
            self.mark("=")
            found[name] = self.literal()

        self.many(attribute, "}")
        return found

    def maybe_attrs(self) -> dict[str, Any]:
        return self.attrs() if self.comes("{") else {}

    # ---- modules

    def value(self) -> Value:
        name = self.take(_VALUE, "a value")[1]
        self.mark(":")
        return Value(name, self.type())

    def param(self, kind: str) -> Param:
        """A param, after its kind."""
        value = self.value()
        self.mark("=")
        name = self.take(_NAME, "an initialiser or a recipe")[0]
        if self.comes("("):
            return Param(value, MADE, kind, self._recipe(name))
        return Param(value, Init(name, self.attrs()), kind)

    def _recipe(self, op: str) -> Recipe:
        self.mark("(")
        args = self.many(self._recipe_arg, ")")
        return Recipe(op, args, self.maybe_attrs())

    def _recipe_arg(self) -> Recipe | Param:
        if not self.skip("["):
            return self._recipe(self.take(_NAME, "a recipe")[0])
        param = self.param(self.take(_PARAM, "a param")[0])
        self.mark("]")
        return param

    def function(self) -> Function:
        self.mark("fn")
        name, origin = self.string(), None
        if self.skip("="):
            cls = self.take(_NAME, "a class")[0]
            self.mark(".")
            method = self.take(_NAME, "a method")[0]
            origin = Origin(cls, self.attrs(), method)
        self.mark("(")
        inputs = self.many(self.value, ")")
        self.mark("{")
        env = {v.name: v for v in inputs}

        def used() -> Value:
            name = self.take(_VALUE, "a value")[1]
            if name not in env:
                raise TextError(f"{name} is used before it is defined")
            return env[name]

        doc = self.string() if self.skip("doc") else ""
        params, nodes = [], []
        while kind := self.match(_PARAM):
            params.append(self.param(kind[0]))
            env[params[-1].name] = params[-1].value
        while not self.skip("return"):
            outputs = self.many(self.value, "=")
            op = self.take(_NAME, "an op")[0]
            self.mark("(")
            operands = self.many(used, ")")
            attrs = self.maybe_attrs()
            nodes.append(Node(op, operands, outputs, attrs, self.string() if self.skip("@") else ""))
            env.update((o.name, o) for o in outputs)
        return Function(name, inputs, tuple(params), tuple(nodes), self.many(used, "}"), origin, doc)

    def module(self) -> Module:
        if not self.text.startswith(f"{HEADER}\n"):
            raise self.error(repr(HEADER))
        self.at = len(HEADER)
        entries: dict[str, str] = {}
        functions: dict[str, Function] = {}
        while self.skip("entry "):
            name = self.take(_ENTRY, "a name")[0]
            self.mark("=")
            entries[name] = self.string()
        while not self.match(_END):
            fn = self.function()
            if fn.name in functions:
                raise TextError(f"a second function {fn.name}")
            functions[fn.name] = fn
        return Module(functions, entries)


def module_from_text(text: str) -> Module:
    """Parses the text form; `verify` checks what it means. Raises only TextError, with the number of the line."""
    source = _Text(text)
    try:
        return source.module()
    except (LookupError, ValueError, TypeError, OverflowError, RecursionError) as error:
        what = str(error) if isinstance(error, TextError) else f"{type(error).__name__}: {error}"
        raise TextError(f"line {text.count(chr(10), 0, source.at) + 1}: {what}") from None
