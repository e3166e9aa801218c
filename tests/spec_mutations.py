"""Ways to spoil a spec's data, for the tests that nothing worse than a diagnostic comes of it."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from typing import Any

ODD = [
    None, True, 0, -1, 3, 1 << 62, 0.5, float("nan"), float("inf"), "", "x", "no", "1e-4", "\x1b[31m", "a.b",
    "kind", [], {}, [1, 2], [[1]], {"kind": "x"}, {"kind": None}, {"kind": ["a"]}, {"main": {}}, {"a": {"b": {}}},
    {"kind": "transformer"}, {"kind": "attention", "heads": 2}, "digits", [{}], "../x.yaml",
]  # fmt: skip


def containers(data: Any) -> Iterator[dict[str, Any] | list[Any]]:
    if isinstance(data, dict | list):
        yield data
        for child in data.values() if isinstance(data, dict) else data:
            yield from containers(child)


def mutate(data: Any, chance: random.Random) -> None:
    """Delete, rename, copy, retarget or retype one thing, in place."""
    place = chance.choice(list(containers(data)))
    keys = list(place) if isinstance(place, dict) else list(range(len(place)))
    if not keys:
        return
    key = chance.choice(keys)
    act = chance.randrange(6)
    if act == 0:
        del place[key]
    elif act == 1:
        place[key] = copy.deepcopy(chance.choice(ODD))
    elif act == 2:
        place[key] = copy.deepcopy(chance.choice(list(containers(data))))  # something from elsewhere
    elif isinstance(place, dict):
        value = place[key] if act == 3 else place.pop(key)
        name = key[::-1] if act == 5 else chance.choice([*keys, key + "s", key[:-1], "kind", "backbone", "extends"])
        place[name] = value
    else:
        place.insert(chance.randrange(len(place) + 1), place[key])


def depth(data: Any) -> int:
    children = data.values() if isinstance(data, dict) else data if isinstance(data, list) else ()
    return 1 + max(map(depth, children), default=0)
