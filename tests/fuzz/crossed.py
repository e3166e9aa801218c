"""Crosses tiny systems: parts of others in place of theirs, other legal values of options, networks of two sizes.

Each part and each option is sound by itself, so that more of these specs reach lowering than spoilt ones. `run` takes
them through `check`, lowering and emission. A case follows from its seed alone.
"""

from __future__ import annotations

import ast
import copy
import random
from collections.abc import Iterator
from functools import cache
from typing import Any

import options
from tiny_systems import SYSTEMS

from latentc.components.contract import Lowered
from latentc.diagnostics import DiagnosticError
from latentc.emit.project import project_files
from latentc.files import shipped
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
    data = {key: value for key, value in data.items() if key not in ("weights", "variants")}
    return {("networks" if k == "backbone" else k): ({"main": v} if k == "backbone" else v) for k, v in data.items()}


# Faults of the compiler or its components, whatever the spec says.
MISTAKES = {"E0901", "E0902", "E0903", "E0904"}


def parts(data: Any, place: tuple[str, ...] = ()) -> Iterator[Part]:
    """The components of a spec outside of its training section, with their places."""
    if isinstance(data, dict):
        for key, value in data.items():
            if isinstance(value, dict) and "kind" in value and place[:1] != ("train",):
                yield (*place, key), value
            yield from parts(value, (*place, key))


def crossed(seed: int) -> tuple[dict[str, Any], list[str]]:
    """(data of a spec, what was changed)."""
    chance = random.Random(seed)
    data = {**copy.deepcopy(whole(chance.choice(sorted(SYSTEMS)))), "name": "crossed"}
    changes: list[str] = []
    wanted = chance.choice([1, 1, 1, 2])
    while len(changes) < wanted:
        act = chance.choice([put, put, options.change, options.change, twin])
        if (done := act(data, chance)) is not None:
            changes.append(done)
    return data, changes


def put(data: dict[str, Any], chance: random.Random) -> str | None:
    """Puts a part of another system in the place of one of the same name."""
    place, part = chance.choice(list(parts(data)))
    other = chance.choice(sorted(SYSTEMS))
    fitting = [(at, one) for at, one in parts(whole(other)) if at[-1] == place[-1] and one != part]
    if not fitting:
        return None
    at, one = chance.choice(fitting)
    options.inside(data, place[:-1])[place[-1]] = copy.deepcopy(one)
    return f"{'.'.join(place)} from {'.'.join(at)} of {other}"


def twin(data: dict[str, Any], chance: random.Random) -> str | None:
    """Adds a copy of network `main` with another nested number; it guides the sampler, if that takes guidance."""
    if "twin" in data["networks"] or "main" not in data["networks"]:
        return None
    data["networks"]["twin"] = copy.deepcopy(data["networks"]["main"])
    changed = options.number(data, chance, ("networks", "twin"))
    if changed is None:
        del data["networks"]["twin"]
        return None
    if isinstance(data.get("sampler"), dict) and "guidance" in data["sampler"]:
        data["sampler"]["guidance"] = {"kind": "autoguidance", "network": "twin", "scale": 1.5}
    return changed


def unused_conditions(lowered: Lowered) -> set[str]:
    """The conditions of networks, by NETWORK.NAME, on which no output of any of their methods depends."""
    taken, used = set[str](), set[str]()
    for name, network in lowered.networks.items():
        for method in network.methods.values():
            fn = lowered.module.functions[method.function]
            needed = {*fn.outputs}
            for node in reversed(fn.nodes):
                if needed & {*node.outputs}:
                    needed |= {*node.inputs}
            own = [
                (v, f"{name}.{p.name}") for v, p in zip(fn.inputs, method.inputs, strict=True) if p.role == "condition"
            ]
            taken |= {condition for _, condition in own}
            used |= {condition for value, condition in own if value in needed}
    return taken - used


def run(seed: int) -> str:
    """The outcome of a case: `emitted`, or the codes of its diagnostics. Raises whatever else happens."""
    data, changes = crossed(seed)
    try:
        spec = spec_from_text(yaml_from_data(data), "crossed.yaml", None, [])
        lowered = lower(spec)
        assert not (unused := unused_conditions(lowered)), f"conditions without any effect: {unused}"
        files = project_files(lowered, spec)
        optimised(lowered, spec)
    except DiagnosticError as error:
        codes = sorted({diagnostic.code for diagnostic in error.diagnostics})
        assert codes and set(codes) <= set(shipped.codes()) - MISTAKES, (codes, changes)
        return " ".join(codes)
    except Exception as error:
        raise AssertionError(f"{data['name']} with {'; '.join(changes)}") from error
    for file, content in files.items():
        if file.endswith(".py"):
            assert isinstance(content, str)
            ast.parse(content)
    return "emitted"
