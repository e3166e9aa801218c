"""Spoils shipped specs and takes them through `check`, lowering and emission: to a diagnostic or a sound project.

A case follows from its seed alone, so a seed that fails is a test that fails.
"""

from __future__ import annotations

import ast
import copy
import random
from typing import Any

from spec_mutations import ODD, containers, depth, mutate

from latentc.diagnostics import DiagnosticError
from latentc.emit.project import project_files
from latentc.files import shipped
from latentc.lower import lower
from latentc.spec import spec_from_text
from latentc.spec.resolve import resolve_file
from latentc.spec.write import yaml_from_data

NUMBERS = [
    0, 1, -1, 2, 7, 3.5, 1e-300, 1e300, -0.0, 65_535, 65_536, 65_537, 1 << 20, 1 << 31, (1 << 63) - 1, -(1 << 63),
    512, 513, 1_024, 100_000, 1e-9,
]  # fmt: skip
EVIL = '"""; __import__("pathlib").Path("pwned").touch(); x = """ \' {{ 7 * 7 }} {% raw %} \\'
TEXTS = [
    EVIL, "__import__('os').system('touch pwned')", "a\nb", "a\x00b", "a\u202eb", "\x85", "é" * 400, "${HOME}",
    "../../../etc/passwd", "/dev/zero", "<script>alert(1)</script>", "{i}", "*", "a|b", "class", "lambda", "a" * 5000,
]  # fmt: skip
SPLICES = [
    "!!python/object/apply:os.system ['touch pwned']",
    "&a [*a]",
    "<<: {a: 1}",
    "---\nb: 2",
    "'",
    "\t",
    "? ",
    "%",
]


def spoilt(seed: int) -> tuple[str, str | None, list[str]]:
    """(text of a spec, variant, overrides) of a case."""
    chance = random.Random(seed)
    name = chance.choice(sorted(shipped.shipped_specs()))
    resolved = resolve_file(name)
    data = copy.deepcopy(resolved.document.data)
    data["name"] = "spoilt"
    for key in ("weights", "source", "variants"):  # many lines of text, which would take most of the changes
        if chance.random() < 0.9:
            data.pop(key, None)
    if chance.random() < 0.2:
        data = {"latentc": 1, "name": "spoilt", "extends": name, **_part(data, chance)}
    for _ in range(chance.choice([0, 1, 1, 1, 2, 2, 3, 5])):
        _spoil(data, chance)
    text = yaml_from_data(data) if depth(data) < 60 else "latentc: 1\n"
    if chance.random() < 0.1:
        at = chance.randrange(len(text))
        text = text[:at] + chance.choice(SPLICES) + text[at + chance.randrange(3) :]
    overrides = [_override(data, chance) for _ in range(chance.choice([0, 0, 0, 1, 2]))]
    return text, chance.choice([*[None] * 20, "x"]), overrides


def run(seed: int) -> str:
    """The outcome of a case: `emitted`, or the codes of its diagnostics. Raises whatever else happens."""
    text, variant, overrides = spoilt(seed)
    try:
        spec = spec_from_text(text, "spoilt.yaml", variant, overrides)
        files = project_files(lower(spec), spec)
    except DiagnosticError as error:
        codes = sorted({diagnostic.code for diagnostic in error.diagnostics})
        assert codes and set(codes) <= set(shipped.codes()) and str(error).startswith("error[E")
        return " ".join(codes)
    for file, content in files.items():
        if file.endswith(".py"):
            assert isinstance(content, str)
            named = [node.func for node in ast.walk(ast.parse(content)) if isinstance(node, ast.Call)]
            assert not any(isinstance(f, ast.Name) and f.id in ("__import__", "eval", "exec") for f in named), file
    return "emitted"


def _spoil(data: Any, chance: random.Random) -> None:
    """One change somewhere: of structure, of a number, of a text."""
    kind = chance.random()
    leaves = [(place, key) for place in containers(data) for key, value in _items(place) if not _inner(value)]
    if kind < 0.4 or not leaves:
        return mutate(data, chance)
    place, key = chance.choice(leaves)
    value = place[key]
    if isinstance(value, str) and chance.random() < 0.7:
        place[key] = chance.choice(TEXTS)
    elif kind < 0.9:
        near = [value * 2, value * 3, value + 1, value - 1, -value, value / 2, value // 2] if _number(value) else []
        place[key] = chance.choice([*NUMBERS, *near * 3])
    else:
        place[key] = copy.deepcopy(chance.choice(ODD))


def _override(data: dict[str, Any], chance: random.Random) -> str:
    path, value = [], data
    while isinstance(value, dict) and value and (not path or chance.random() < 0.8):
        key = chance.choice(list(value))
        path, value = [*path, key], value[key]
    new = chance.choice([*NUMBERS, *TEXTS, *ODD])
    return f"{'.'.join(map(str, path))}={yaml_from_data(new).strip()}"


def _part(data: dict[str, Any], chance: random.Random) -> dict[str, Any]:
    keys = [key for key in data if key not in ("latentc", "name", "extends")]
    return {key: data[key] for key in chance.sample(keys, min(len(keys), 2))}


def _items(place: Any) -> list[tuple[Any, Any]]:
    return list(place.items() if isinstance(place, dict) else enumerate(place))


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value


def _inner(value: Any) -> bool:
    return isinstance(value, dict | list)
