"""Puts parts of tiny systems in the place of others' parts, and takes them through `check`, lowering and emission.

Each part is sound where it comes from, so that more of these specs reach lowering than spoilt ones. A case follows from
its seed alone.
"""

from __future__ import annotations

import ast
import copy
import random
from collections.abc import Iterator
from functools import cache
from typing import Any

from tiny_systems import SYSTEMS

from latentc import resources
from latentc.diagnostics import DiagnosticError
from latentc.emit.project import project_files
from latentc.lower import lower
from latentc.pipeline import optimised
from latentc.spec import load_spec, resolved_yaml, spec_from_text
from latentc.spec.write import yaml_from_data
from latentc.spec.yaml import load_yaml

Part = tuple[tuple[str, ...], dict[str, Any]]


@cache
def whole(system: str) -> dict[str, Any]:
    """The data of a tiny system with all defaults."""
    tiny = SYSTEMS[system]
    text = resolved_yaml(load_spec(tiny.spec, tiny.variant, list(tiny.sizes)))
    data = load_yaml(text, system).data
    return {key: value for key, value in data.items() if key not in ("weights", "variants")}


def parts(data: Any, place: tuple[str, ...] = ()) -> Iterator[Part]:
    """The components of a spec outside of its training section, with their places."""
    if isinstance(data, dict):
        for key, value in data.items():
            if isinstance(value, dict) and "kind" in value and place[:1] != ("train",):
                yield (*place, key), value
            yield from parts(value, (*place, key))


def crossed(seed: int) -> tuple[dict[str, Any], list[str]]:
    """(data of a spec, what was put where)."""
    chance = random.Random(seed)
    names = sorted(SYSTEMS)
    data = {**copy.deepcopy(whole(chance.choice(names))), "name": "crossed"}
    put: list[str] = []
    while len(put) < chance.choice([1, 1, 1, 2]):
        place, part = chance.choice(list(parts(data)))
        other = chance.choice(names)
        fitting = [(at, one) for at, one in parts(whole(other)) if at[-1] == place[-1] and one != part]
        if not fitting:
            continue
        at, one = chance.choice(fitting)
        inside = data
        for key in place[:-1]:
            inside = inside[key]
        inside[place[-1]] = copy.deepcopy(one)
        put.append(f"{'.'.join(place)} from {'.'.join(at)} of {other}")
    return data, put


def run(seed: int) -> str:
    """What became of a case: `emitted`, or the codes of its diagnostics. Raises whatever else happens."""
    data, put = crossed(seed)
    try:
        spec = spec_from_text(yaml_from_data(data), "crossed.yaml", None, [])
        lowered = lower(spec)
        files = project_files(lowered, spec)
        optimised(lowered, spec)
    except DiagnosticError as error:
        codes = sorted({diagnostic.code for diagnostic in error.diagnostics})
        assert codes and set(codes) <= set(resources.codes()), put
        return " ".join(codes)
    except Exception as error:
        raise AssertionError(f"{data['name']} with {'; '.join(put)}") from error
    for file, content in files.items():
        if file.endswith(".py"):
            assert isinstance(content, str)
            ast.parse(content)
    return "emitted"
