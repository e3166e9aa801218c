"""Whatever is done to a spec, the outcome is a spec or a diagnostic: never another exception."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from spec_fakes import TINY
from spec_fakes import fakes as fakes
from spec_mutations import ODD, containers, depth, mutate

from latentc.diagnostics import DiagnosticError
from latentc.files import shipped
from latentc.files.shipped import codes
from latentc.spec import resolved_yaml, spec_from_text
from latentc.spec.write import yaml_from_data
from latentc.spec.yaml import load_yaml

pytestmark = pytest.mark.usefixtures("fakes")

WHOLE = TINY + 'weights: {official: {main: [{from: "a.{i}.*", to: "b.{i}.*"}]}}\nsource: "a: paper"\n'
SPLICES = ["\t", "\0", "{", "}", "[", ":", ": ", "- ", "&a ", "*a", "!!x ", "'", '"', "\n", "  ", "#", "|", ">", "é",
           "\\", "!replace ", "<<: ", "---\n", "?", "%", "\u2028", "\ufeff", "9" * 30, "e", "{{"]  # fmt: skip


def check(text: str, variant: str | None = None, overrides: tuple[str, ...] = ()) -> None:
    """A spec that loads survives the way to text and back; one that does not gives known codes and a text."""
    try:
        spec = spec_from_text(text, "t.yaml", variant, overrides)
    except DiagnosticError as error:
        assert error.diagnostics
        assert {diagnostic.code for diagnostic in error.diagnostics} <= set(codes())
        assert str(error).startswith("error[E")
    else:
        assert spec_from_text(resolved_yaml(spec)) == spec


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


@given(st.randoms(use_true_random=False), st.integers(1, 4), st.sampled_from([None, "wide", "scan"]))
@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
def test_mutated_extensions(based: None, chance: random.Random, count: int, variant: str | None) -> None:
    """A part of a spec, spoilt, that extends the whole one; some mappings replace, and some values are removed."""
    data = load_yaml(WHOLE, "t.yaml").data
    data = {key: value for key, value in data.items() if chance.random() < 0.7}
    for _ in range(count):
        if data:
            mutate(data, chance)
    for place in containers(data):
        for key in list(place) if isinstance(place, dict) else ():
            if chance.random() < 0.1:
                place[key] = None
    if depth(data) < 60:
        text = yaml_from_data({**data, "latentc": 1, "extends": "base"})
        parts = re.split(r"(?<=: )(?={)", text)
        check(
            "".join(f"!replace {part}" if part[0] == "{" and chance.random() < 0.2 else part for part in parts), variant
        )


@pytest.fixture
def based(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`base` is a shipped spec."""
    (tmp_path / "base.yaml").write_text(WHOLE)
    monkeypatch.setattr(shipped, "shipped_specs", lambda: {"base": tmp_path / "base.yaml"})


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
