"""Tensor names with placeholders, matched in linear time and readable in both directions.

    blocks.{i}.attn.weight        {i}        one letter: a number without leading zeros
    layers.{2*i+1}.weight         {2*i+1}    a linear function of such a number; sizes of the network may occur in it
    {net}.out.weight              {net}      a longer word: one whole path component, without dots
    {part:enc|dec}_{i}.weight     {part:…}   one of these words; the words of both sides correspond by position
    t_embedder.mlp.0.*            *          the rest, one or more characters of any kind; at most once

Every placeholder matches in only one way, so that each name has exactly one reading and exactly one counterpart on the
other side: numbers and `|` lists match greedily, a path component ends at a dot or at the end of the name.
"""

from __future__ import annotations

import ast
import math
import operator
import re
from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

from latentc.diagnostics import nearest

Sizes = Mapping[str, float | tuple[float, ...]]
"""Sizes of a network that expressions may use: numbers, and lists of them that are read by index (`attention[0]`)."""

FIELD = re.compile(r"\{([^{}]*)\}|(\*)")
"""A placeholder of a template: the text between its braces, or `*`."""
LETTER = re.compile(r"(?<!\w)[A-Za-z_](?!\w)")
"""The letter of a placeholder that is a number."""
NO_DIGITS = str.maketrans("", "", "0123456789")
"""For `str.translate`: names of the blocks of a network are the same without digits."""
_WORD = re.compile(r"[A-Za-z_]\w*")
_LONGEST_NAME = 1000  # characters; longer names match nothing, which bounds the time of `*`
_LONGEST_EXPRESSION = 100  # characters


@dataclass(frozen=True)
class Placeholder:
    """One placeholder of a template: a list has `words`; a number i is written as step * i + start."""

    name: str
    words: tuple[str, ...] = ()
    step: int = 1
    start: int = 0

    def read(self, text: str) -> str | None:
        """The value of the matched text: the number i, the index in `words`, or the text itself."""
        if self.words:
            return str(self.words.index(text))
        if (self.step, self.start) == (1, 0):
            return text
        value, rest = divmod(int(text) - self.start, self.step)
        return str(value) if not rest and value >= 0 else None

    def write(self, value: str) -> str | None:
        """The text for a value; None for a negative number, which no name has."""
        if self.words:
            return self.words[int(value)]
        if (self.step, self.start) == (1, 0):
            return value
        number = self.step * int(value) + self.start
        return str(number) if number >= 0 else None


@dataclass(frozen=True)
class Template:
    """A parsed name: its placeholders and the literal texts around them."""

    text: str
    literals: tuple[str, ...]
    fields: tuple[Placeholder, ...]
    regex: str

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """The compiled regex, at first use: rules are also checked where no name is matched."""
        return _compiled(self.regex)

    @cached_property
    def negative(self) -> bool:
        """True if a number could be negative, so that `fill` may find no name."""
        return any(min(field.step, field.start) < 0 for field in self.fields)

    @cached_property
    def _without_digits(self) -> tuple[bool, str, str]:
        """(whether all placeholders are numbers, begin, end) of the literals without digits; all of them if so."""
        begin, *others = (text.translate(NO_DIGITS) for text in self.literals)
        if all(len(field.name) == 1 and field.name != "*" and not field.words for field in self.fields):
            return True, "".join((begin, *others)), ""
        return False, begin, others[-1]

    def resembles(self, rest: str) -> bool:
        """False if no name that is `rest` without its digits has this form."""
        numbers, begin, end = self._without_digits
        return rest == begin if numbers else rest.startswith(begin) and rest.endswith(end)

    def match(self, name: str) -> dict[str, str] | None:
        """{placeholder: value} if the name has this form, else None."""
        found = self.pattern.fullmatch(name) if len(name) <= _LONGEST_NAME else None
        if found is None:
            return None
        values = {f.name: f.read(text) for f, text in zip(self.fields, found.groups(), strict=True)}
        known = {key: value for key, value in values.items() if value is not None}
        return known if len(known) == len(values) else None

    def fill(self, bindings: Mapping[str, str]) -> str | None:
        """The name for these values; None if a number would be negative."""
        made = self.literals[0]
        for field, text in zip(self.fields, self.literals[1:], strict=True):
            word = field.write(bindings[field.name])
            if word is None:
                return None
            made += word + text
        return made


def template(text: Any, sizes: Sizes) -> Template:
    """Parse a name. `sizes` are the numbers its expressions may use. ValueError says what is wrong."""
    if not isinstance(text, str) or not text:
        raise ValueError(f"a name must be text, not {text!r}")
    return _sized(text, sizes) if _depends_on_sizes(text) else _unsized(text)


@lru_cache(maxsize=1 << 16)
def _depends_on_sizes(text: str) -> bool:
    """True if an expression in a name has words other than the letter of the number."""
    inner = [text for text, _ in FIELD.findall(text) if ":" not in text and not _WORD.fullmatch(text)]
    return any(len(word) > 1 for text in inner for word in _WORD.findall(text))


@lru_cache(maxsize=1 << 16)
def _unsized(text: str) -> Template:
    """A name that is the same for all networks: most are, and a map is read for each variant and by each check."""
    return _sized(text, {})


def _sized(text: str, sizes: Sizes) -> Template:
    found = list(FIELD.finditer(text))
    literals = FIELD.split(text)[::3]
    if any("{" in literal or "}" in literal for literal in literals):
        raise ValueError(f"{text!r}: a brace that belongs to no placeholder")
    if not all(literals[1:-1]):
        raise ValueError(f"{text!r}: two placeholders need some text between them")
    fields = tuple(Placeholder("*") if one[2] else _placeholder(one[1], sizes) for one in found)
    names = [field.name for field in fields]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{text!r}: {name if name == '*' else f'{{{name}}}'} occurs twice")
    pattern = re.escape(literals[0])
    for place, (field, after) in enumerate(zip(fields, literals[1:], strict=True)):
        pattern += _pattern(text, field, literals[place], after, "*" in names[:place]) + re.escape(after)
    return Template(text, tuple(literals), fields, pattern)


@lru_cache(maxsize=1 << 16)
def _compiled(pattern: str) -> re.Pattern[str]:
    """A regex; the cache of `re` is too small for the rules of a deep network."""
    return re.compile(pattern, re.DOTALL)


def _pattern(text: str, field: Placeholder, before: str, after: str, after_star: bool) -> str:
    """The regex group of a placeholder; only `*` can backtrack."""
    if field.name == "*":
        return "(.+)"
    if field.words:
        return f"((?>{'|'.join(re.escape(word) for word in sorted(field.words, key=len, reverse=True))}))"
    if len(field.name) == 1:
        if after[:1].isdigit() or before[-1:].isdigit():
            raise ValueError(f"{text!r}: a digit next to the number {{{field.name}}}")
        return "(0|[1-9][0-9]*+)"
    if after[:1] not in ("", ".") or (after_star and before[-1:] != "."):
        raise ValueError(
            f"{text!r}: {{{field.name}}} stands for a whole path component, so a dot must follow it; "
            f"write {{i}} for a number, or list the words: {{{field.name}:first|second}}"
        )
    return "([^.]++)"


def _placeholder(text: str, sizes: Sizes) -> Placeholder:
    name, colon, words = text.partition(":")
    if _WORD.fullmatch(name) and (colon or text == name):
        choices = tuple(words.split("|")) if colon else ()
        if colon and (not all(choices) or len(set(choices)) < len(choices)):
            raise ValueError(f"{{{text}}} must list different words: {{{name}:first|second}}")
        return Placeholder(name, choices)
    letters = set(LETTER.findall(text))
    if len(letters) != 1:
        raise ValueError(f"{{{text}}} is neither a word nor a function of one letter, such as {{i+1}}")
    (letter,) = letters
    at = [number(text, _with({letter: i}, sizes)) for i in (0, 1, 7)]
    step, start = at[1] - at[0], at[0]
    if at[2] != start + 7 * step or not step or int(step) != step or int(start) != start:
        raise ValueError(f"{{{text}}} is not a linear function of {letter} with whole coefficients")
    return Placeholder(letter, (), int(step), int(start))


def filled(text: str, values: Mapping[str, int], sizes: Sizes) -> str:
    """`text` with a number for every placeholder that is an expression of `values` (single letters) and sizes."""

    def number_of(found: re.Match[str]) -> str:
        letters = set(LETTER.findall(found[1] or ""))
        if not letters or not letters <= set(values) or ":" in found[1]:
            return found[0]
        value = whole(found[1], _with(values, sizes))
        if value < 0:
            raise ValueError(f"{{{found[1]}}} is {value} for {dict(values)}")
        return str(value)

    return FIELD.sub(number_of, text)


class AnySizes(Sizes):
    """Placeholder for sizes before the network is known: every name is a number, and also a list of any length."""

    def __getitem__(self, name: str) -> int:
        return 720  # many divisors, so that quotients are whole

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0

    def __contains__(self, name: object) -> bool:
        return True


def _with(letters: Mapping[str, int], sizes: Sizes) -> Sizes:
    """`sizes` and letters that stand for numbers; `AnySizes` cannot be copied into a dict."""
    return ChainMap(dict(letters), sizes)  # type: ignore[arg-type]


_OPERATORS: dict[type[ast.AST], Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.USub: operator.neg,
}


@lru_cache(maxsize=1 << 16)
def _parsed(text: str) -> ast.AST:
    """An expression; the same ones are evaluated for each variant and by each check."""
    return ast.parse(text, mode="eval").body


def number(text: Any, sizes: Sizes) -> int | float:
    """A number, or the value of an expression of sizes such as `3*width` or `1/sqrt(head_size)`. ValueError."""
    if isinstance(text, bool) or not isinstance(text, int | float | str):
        raise ValueError(f"{text!r} is not a number")
    if isinstance(text, str):
        if len(text) > _LONGEST_EXPRESSION:
            raise ValueError(f"an expression of {len(text)} characters; at most {_LONGEST_EXPRESSION} are allowed")
        try:
            text = _value(_parsed(text.strip()), sizes)
        except (SyntaxError, ZeroDivisionError, OverflowError, RecursionError, MemoryError) as error:
            raise ValueError(f"{text!r} cannot be evaluated") from error
    if not math.isfinite(text):
        raise ValueError(f"{text!r} is not a finite number")
    return text


def whole(text: Any, sizes: Sizes) -> int:
    """`number`, which must be a whole one. ValueError."""
    value = number(text, sizes)
    if value != int(value):
        raise ValueError(f"{text!r} must be an integer")
    return int(value)


def whole_list(text: Any, sizes: Sizes) -> list[int]:
    """A list of whole numbers, or one alone. ValueError."""
    if isinstance(text, Sequence) and not isinstance(text, str):
        return [whole(item, sizes) for item in text]
    return [whole(text, sizes)]


def _value(node: ast.AST, sizes: Sizes) -> int | float:
    match node:
        case ast.Constant(value=value) if isinstance(value, int | float) and not isinstance(value, bool):
            return value
        case ast.Name(id=name):
            if name not in sizes:
                near = nearest(name, sizes)
                raise ValueError(f"no number is named {name!r}" + (f"; did you mean {near!r}?" if near else ""))
            size = sizes[name]
            if isinstance(size, tuple):
                raise ValueError(f"{name} is a list of {len(size)} numbers: write {name}[0]")
            return size
        case ast.Subscript(value=ast.Name(id=name), slice=index):
            numbers, place = sizes.get(name), _value(index, sizes)
            if not isinstance(numbers, tuple):
                if numbers is not None and any(isinstance(own, AnySizes) for own in getattr(sizes, "maps", [sizes])):
                    return numbers
                raise ValueError(f"no list of numbers is named {name!r}")
            if place not in range(len(numbers)):
                raise ValueError(f"{name}[{place}] is out of range: {name} has {len(numbers)} numbers")
            return numbers[int(place)]
        case ast.BinOp(left=left, op=ast.RShift(), right=right):
            return _value(left, sizes) // 2 ** min(max(int(_value(right, sizes)), 0), 64)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            result: int | float = _OPERATORS[type(op)](_value(left, sizes), _value(right, sizes))
            return result
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand, sizes)
        case ast.Call(func=ast.Name(id="len"), args=[ast.Name(id=name)], keywords=[]):
            numbers = sizes.get(name)
            if isinstance(numbers, tuple):
                return len(numbers)
            if name not in sizes:
                raise ValueError(f"no list of numbers is named {name!r}")
            return int(_value(ast.Name(name), sizes))
        case ast.Call(func=ast.Name(id="sqrt"), args=[argument], keywords=[]):
            value = _value(argument, sizes)
            if value < 0:
                raise ValueError("the square root of a negative number")
            return math.sqrt(value)
    raise ValueError("only numbers, sizes, + - * / // >>, sqrt(…) and len(…) are allowed")
