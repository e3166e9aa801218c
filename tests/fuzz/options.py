"""Legal values of the options of a spec, from the types, bounds and choices that its components declare."""

from __future__ import annotations

import copy
import random
import types
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from latentc.components import OneOf
from latentc.spec.schema import place_at
from latentc.spec.yaml import PathKey

NEAR = [0, 1, 2, 3, 4, 8]
SHARES = [0.0, 0.1, 0.25, 0.5, 1.0, 1.5, 2.0]


def sections(data: Any, path: PathKey = ()) -> Iterator[PathKey]:
    """The places of all mappings of a spec."""
    if isinstance(data, dict):
        yield path
    if isinstance(data, dict | list):
        for key, value in data.items() if isinstance(data, dict) else enumerate(data):
            yield from sections(value, (*path, key))


def inside(data: Any, path: PathKey) -> Any:
    """The value at a place."""
    for key in path:
        data = data[key]
    return data


def change(data: dict[str, Any], chance: random.Random, where: PathKey = ()) -> str | None:
    """Gives one option below `where` another legal value; returns what was changed, or None if nothing can be."""
    places = [path for path in sections(inside(data, where), where) if path[:1] not in ((), ("data",), ("weights",))]
    for _ in range(40):
        path = chance.choice(places) if places else where
        section, place = inside(data, path), place_at(path, data)
        fields = place.keys(section) if place is not None else {}
        if not fields:
            continue
        key = chance.choice(sorted(fields))
        if key == "kind" or fields[key].annotation in (str, str | None):  # names of other things
            continue
        others = [value for value in values(fields[key], section.get(key), chance) if value != section.get(key)]
        if others:
            section[key] = chance.choice(others)
            return f"{'.'.join(map(str, (*path, key)))}={section[key]}"
    return None


def number(data: dict[str, Any], chance: random.Random, where: PathKey) -> str | None:
    """Changes a number of a part nested below `where`, as `change` does."""
    found = [
        (path, key)
        for path in sections(inside(data, where), where)
        for key, value in inside(data, path).items()
        if len(path) > len(where) and isinstance(value, int | float) and not isinstance(value, bool)
    ]
    chance.shuffle(found)
    for path, key in found:
        section, place = inside(data, path), place_at(path, data)
        info = place.keys(section).get(key) if place is not None else None
        others = [] if info is None else [v for v in values(info, section[key], chance) if v != section[key]]
        if others := [v for v in others if isinstance(v, int | float) and not isinstance(v, bool)]:
            section[key] = chance.choice(others)
            return f"{'.'.join(map(str, (*path, key)))}={section[key]}"
    return None


def values(info: FieldInfo, now: Any, chance: random.Random) -> list[Any]:
    """Legal values of a field whose value is `now`."""
    return list(_values(info.annotation, tuple(info.metadata), now, chance))


def _values(annotation: Any, marks: tuple[Any, ...], now: Any, chance: random.Random) -> Iterator[Any]:
    origin, args = get_origin(annotation), get_args(annotation)
    mark = next((mark for mark in marks if isinstance(mark, OneOf)), None)
    if origin is Annotated:
        yield from _values(args[0], (*marks, *args[1:]), now, chance)
    elif origin in (Union, types.UnionType):
        for part in args:
            yield from _values(part, marks, now, chance)
    elif annotation is type(None):
        yield None
    elif mark is not None:
        kinds = mark.choices()
        made = dict(copy.deepcopy(kinds[chance.choice(sorted(kinds))].EXAMPLE)) if kinds else {}
        if made:
            yield [made] if mark.many and isinstance(now, list) else made
    elif origin is Literal:
        yield from args
    elif annotation is bool:
        yield from (True, False)
    elif annotation in (int, float):
        yield from _numbers(annotation, marks, now)
    elif origin is tuple:
        yield from _lists(args, marks, now, chance)
    elif now is None and isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield from [] if any(field.is_required() for field in annotation.model_fields.values()) else [{}]


def _numbers(kind: type, marks: tuple[Any, ...], now: Any) -> Iterator[Any]:
    """Numbers near `now` within the bounds, and the least that a bound allows."""
    own = now if isinstance(now, int | float) and not isinstance(now, bool) else None
    near = list(NEAR if kind is int else SHARES)
    if own is not None:
        near += [own + 1, own - 1, own * 2, own // 2] if kind is int else [own * 2, own / 2, own * 1.1]
    flat = [bound for mark in marks for bound in (getattr(mark, "metadata", None) or [mark])]
    near += [getattr(bound, "ge", None) for bound in flat if getattr(bound, "ge", None) is not None]
    for value in dict.fromkeys(near):
        fits = all(
            value > getattr(bound, "gt", value - 1)
            and value >= getattr(bound, "ge", value)
            and value < getattr(bound, "lt", value + 1)
            and value <= getattr(bound, "le", value)
            and value % getattr(bound, "multiple_of", 1 if kind is int else value or 1) == 0
            for bound in flat
        )
        if fits and abs(value) <= 256:
            yield kind(value)


def _lists(args: tuple[Any, ...], marks: tuple[Any, ...], now: Any, chance: random.Random) -> Iterator[list[Any]]:
    """The list with another item, with one more, with one less."""
    own = list(now) if isinstance(now, list | tuple) else []
    fixed = ... not in args
    if own:
        at = chance.randrange(len(own))
        for value in _values(args[at] if fixed else args[0], (), own[at], chance):
            yield [*own[:at], value, *own[at + 1 :]]
    if not fixed:
        yield own[:-1]
        if own:
            yield [*own, own[-1]]
        else:
            yield from ([value] for value in _values(args[0], (), None, chance))
    elif not own and (items := [list(_values(arg, (), None, chance)) for arg in args]) and all(items):
        yield [chance.choice(choices) for choices in items]
