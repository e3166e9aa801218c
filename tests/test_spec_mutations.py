"""Whatever is done to a spec, the outcome is a spec or a diagnostic: never another exception."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from spec_fakes import TINY
from spec_fakes import fakes as fakes

from latentc.diagnostics import CODES, DiagnosticError
from latentc.spec import resolved_yaml, spec_from_text
from latentc.spec.write import yaml_from_data
from latentc.spec.yaml import load_yaml

pytestmark = pytest.mark.usefixtures("fakes")

WHOLE = TINY + 'weights: {official: {main: [{from: "a.{i}.*", to: "b.{i}.*"}]}}\nsource: "a: paper"\n'
ODD = [
    None, True, 0, -1, 3, 1 << 62, 0.5, float("nan"), float("inf"), "", "x", "no", "1e-4", "\x1b[31m", "a.b",
    "kind", [], {}, [1, 2], [[1]], {"kind": "x"}, {"kind": None}, {"kind": ["a"]}, {"main": {}}, {"a": {"b": {}}},
    {"kind": "transformer"}, {"kind": "attention", "heads": 2}, "digits", [{}], "../x.yaml",
]  # fmt: skip
SPLICES = ["\t", "\0", "{", "}", "[", ":", ": ", "- ", "&a ", "*a", "!!x ", "'", '"', "\n", "  ", "#", "|", ">", "é",
           "\\", "<<: ", "---\n", "?", "%", "\u2028", "\ufeff", "9" * 30, "e", "{{"]  # fmt: skip


def check(text: str, variant: str | None = None, overrides: tuple[str, ...] = ()) -> None:
    """A spec that loads survives the way to text and back; one that does not gives known codes and a text."""
    try:
        spec = spec_from_text(text, "t.yaml", variant, overrides)
    except DiagnosticError as error:
        assert error.diagnostics
        assert {diagnostic.code for diagnostic in error.diagnostics} <= set(CODES)
        assert str(error).startswith("error[E")
    else:
        assert spec_from_text(resolved_yaml(spec)) == spec


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


@given(st.randoms(use_true_random=False), st.integers(1, 4), st.sampled_from([None, "wide", "scan", "x"]))
@settings(max_examples=600, deadline=None, suppress_health_check=list(HealthCheck))
def test_mutated_values(chance: random.Random, count: int, variant: str | None) -> None:
    data = load_yaml(WHOLE, "t.yaml").data
    for _ in range(count):
        mutate(data, chance)
    if depth(data) < 60:
        check(yaml_from_data(data), variant)


@given(st.data())
@settings(max_examples=500, deadline=None, suppress_health_check=list(HealthCheck))
def test_mutated_text(source: st.DataObject) -> None:
    text = WHOLE
    for _ in range(source.draw(st.integers(1, 3))):
        start = source.draw(st.integers(0, len(text)))
        end = min(len(text), start + source.draw(st.sampled_from([0, 0, 1, 2, 9, 40])))
        text = text[:start] + source.draw(st.sampled_from(["", *SPLICES])) + text[end:]
    check(text)


PATHS = [
    "backbone",
    "backbone.width",
    "backbone.mixer.kind",
    "data",
    "train.optimizer",
    "networks.main",
    "networks",
    "sampler.kind",
    "name.0",
    "weights.official.main.0",
    "variants",
    "train.schedule",
    "conditioning",
]
SETS = st.text(st.sampled_from("abk.=0-[]{}:, '\"\n\t"), max_size=16) | st.builds(
    lambda path, value: f"{path}={yaml_from_data(value).strip()}", st.sampled_from(PATHS), st.sampled_from(ODD)
)


@given(st.lists(SETS, min_size=1, max_size=3))
@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_set(overrides: list[str]) -> None:
    check(WHOLE, None, tuple(overrides))


def test_bytes_spliced_into_a_file(tmp_path: Any) -> None:
    from latentc.spec import load_spec

    chance = random.Random(0)
    path = tmp_path / "t.yaml"
    for _ in range(150):
        content = bytearray(WHOLE.encode())
        for _ in range(chance.randrange(1, 4)):
            at = chance.randrange(len(content))
            content[at : at + chance.randrange(3)] = chance.randbytes(chance.randrange(3))
        path.write_bytes(bytes(content))
        try:
            load_spec(path)
        except DiagnosticError as error:
            assert str(error).startswith("error[E")
