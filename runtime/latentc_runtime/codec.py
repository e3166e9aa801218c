"""Dataclasses from JSON and back. Errors for unknown keys, missing keys and wrong types name the place.

The dataclasses are the schema. Supported types: str, int, float, bool, Any, Literal, `X | None`, `int | str`,
`tuple[X, ...]`, `tuple[X, Y]`, `dict[str, X]`, dataclasses, and unions of dataclasses that are distinguished by their
first field, a Literal (`op` or `kind`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import math
import types
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")


class CodecError(ValueError):
    """The fault and its place, such as `programs[0].steps: expected a whole number, got "ten"`."""


def parse(text: bytes) -> Any:
    """JSON text as Python values; CodecError also for duplicate keys and NaN, which the json module accepts."""
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except RecursionError:
        raise CodecError("it is nested too deeply") from None
    except CodecError:
        raise
    except ValueError as error:  # malformed JSON, text that is not UTF-8, or a number of thousands of digits
        raise CodecError(str(error)) from None


def decode(kind: type[T], value: object, place: str = "") -> T:
    """A result of `parse` as an instance of `kind`."""
    decoded: T = _decode(kind, value, place)
    return decoded


def encode(value: Any) -> Any:
    """A dataclass as data for `json.dumps`; every field is written, including None."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: encode(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: encode(entry) for key, entry in value.items()}
    if isinstance(value, tuple | list):
        return [encode(entry) for entry in value]
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise CodecError("a key occurs twice")
    return found


def _no_constant(name: str) -> None:
    raise CodecError(f"{name} is not JSON")


_NAMES = {str: "text", int: "a whole number", float: "a number", bool: "true or false", type(None): "null"}


def _decode(kind: Any, value: object, place: str) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if dataclasses.is_dataclass(kind):
        return _decode_dataclass(kind, value, place)
    if origin is Literal:
        if value not in arguments or isinstance(value, bool):
            raise _wrong(place, "one of " + ", ".join(json.dumps(a) for a in arguments), value)
        return value
    if origin in (Union, types.UnionType):
        return _decode_union(arguments, value, place)
    if origin is tuple:
        return _decode_tuple(arguments, value, place)
    if origin is dict:
        if not isinstance(value, dict):
            raise _wrong(place, "an object", value)
        return {key: _decode(arguments[1], entry, _join(place, key)) for key, entry in value.items()}
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        with contextlib.suppress(OverflowError):  # an integer of more than 308 digits
            if math.isfinite(number := float(value)):
                return number
        raise _wrong(place, "a finite number", value)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise _wrong(place, _NAMES[kind], value)
    return value


def _decode_dataclass(kind: Any, value: object, place: str) -> Any:
    if not isinstance(value, dict):
        raise _wrong(place, "an object", value)
    fields = {field.name: field for field in dataclasses.fields(kind)}
    hints = _hints(kind)
    for key in value:
        if key not in fields:
            raise CodecError(f"{_join(place, key)}: unknown field; known are {', '.join(fields)}")
    for name, field in fields.items():
        optional = field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
        if name not in value and not optional:
            raise CodecError(f"{_join(place, name)}: the field is missing")
    decoded = {key: _decode(hints[key], entry, _join(place, key)) for key, entry in value.items()}
    try:
        return kind(**decoded)
    except ValueError as error:  # of values that contradict each other
        raise CodecError(f"{place}: {error}") from None


def _decode_union(choices: tuple[Any, ...], value: object, place: str) -> Any:
    if value is None and type(None) in choices:
        return None
    rest = [choice for choice in choices if choice is not type(None)]
    if len(rest) == 1:
        return _decode(rest[0], value, place)
    if dataclasses.is_dataclass(rest[0]):
        if not isinstance(value, dict):
            raise _wrong(place, "an object", value)
        tag = dataclasses.fields(rest[0])[0].name
        by_tag = {get_args(_hints(choice)[tag])[0]: choice for choice in rest}
        chosen = value.get(tag)
        if not isinstance(chosen, str) or chosen not in by_tag:
            raise _wrong(_join(place, tag), "one of " + ", ".join(by_tag), chosen)
        return _decode(by_tag[chosen], value, place)
    for choice in rest:
        if get_origin(choice) is tuple:
            if isinstance(value, list):
                return _decode(choice, value, place)
        elif isinstance(value, (int, float) if choice is float else choice) and not isinstance(value, bool):
            return _decode(choice, value, place)
    raise _wrong(place, " or ".join(_NAMES.get(choice, "a list") for choice in rest), value)


def _decode_tuple(arguments: tuple[Any, ...], value: object, place: str) -> Any:
    if not isinstance(value, list):
        raise _wrong(place, "a list", value)
    if arguments[-1] is Ellipsis:
        kinds = (arguments[0],) * len(value)
    elif len(arguments) == len(value):
        kinds = arguments
    else:
        raise _wrong(place, f"a list of {len(arguments)}", value)
    return tuple(_decode(kind, v, f"{place}[{i}]") for i, (kind, v) in enumerate(zip(kinds, value, strict=True)))


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


def _join(place: str, key: str) -> str:
    return f"{place}.{key}" if place else key


def _wrong(place: str, expected: str, value: object) -> CodecError:
    shown = json.dumps(value, ensure_ascii=True)
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
    return CodecError(f"{place or 'the file'}: expected {expected}, got {shown}")
