"""Tuning of samplers of masked tokens: the tables as inputs, the search of their numbers, and the folder."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_model import write_random_weights

from latentc import api
from latentc.checkpoint import network_weights
from latentc.components.samplers.confidence import Confidence
from latentc.diagnostics import DiagnosticError
from latentc.lower import lower
from latentc.spec import load_spec
from latentc.tune.candidates import Candidate
from latentc.tune.drawing import open_drawing
from latentc.tune.schedules import HIDDEN, Schedules, descended
from latentc_runtime import load
from latentc_runtime.sources import default_given

pytest.importorskip("matplotlib")

SPEC = """\
latentc: 1
name: tiny
extends: digits_maskgit
data: {kind: npz, path: missing.npz, classes: 10, tokens: {vocabulary: 17, grid: [8, 8]}}
backbone: {width: 16, depth: 1, block: {mixer: {heads: 2}}}
target: {max_batch: 8}
"""
METRIC = """\
def judge(samples, classes):
    return {"light": float(samples.mean())}
"""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A spec and its weights."""
    folder = tmp_path_factory.mktemp("tiny")
    spec, weights = folder / "tiny.yaml", folder / "tiny.safetensors"
    spec.write_text(SPEC)
    write_random_weights(spec, weights, 0.5)
    return spec, weights


def test_a_program_with_other_tables_is_what_compiles(tiny: tuple[Path, Path], tmp_path: Path) -> None:
    file, weights = tiny
    spec = load_spec(file)
    own = spec.sampler
    assert isinstance(own, Confidence)
    four = own.with_steps(4)
    assert isinstance(four, Confidence)
    listed = four.listed(64)
    assert listed.counts(64).tolist() == four.counts(64).tolist()
    tensors = network_weights(spec, lower(spec), weights)
    drawing = open_drawing(spec, four, tensors)
    given = default_given(10, 100, drawing.lowered.conditions, drawing.lowered.programs[0].settings)
    changed = Schedules(listed, 64)
    other = changed.at(changed.clipped(changed.values + np.where(changed.fractions, -0.1, 0.5)))
    found = []
    for i, sampler in enumerate((listed, other)):
        candidate, bundle = tmp_path / f"{i}.yaml", tmp_path / f"{i}"
        Candidate(sampler, "schedules").write(candidate, str(file), own)
        api.compile(candidate, weights, bundle)
        whole = load(bundle, "cpu").sample(np.arange(10), np.arange(100, 110))
        found.append(drawing.samples(sampler, given))
        assert np.mean(found[-1] == whole) > 0.999, sampler
    assert np.mean(found[0] != found[1]) > 0.1  # control: other schedules draw other tokens


def test_the_search_descends_and_stays_within_bounds() -> None:
    spec = load_spec("digits_maskgit")
    four = spec.sampler.with_steps(4)  # type: ignore[union-attr]
    assert isinstance(four, Confidence)
    start = four.listed(64)
    wanted = np.concatenate([np.full(3, 2.0), np.full(11, 0.5)])  # no fraction is 2

    def distance(sampler: Confidence) -> float:
        return float(np.square(Schedules(sampler, 64).values - wanted).sum())

    best, least = descended(start, 64, distance, 60)
    before, values = Schedules(start, 64).values, Schedules(best, 64).values
    assert least == distance(best) < 0.2 * distance(start)
    assert np.all(values[:3] > before[:3] - 0.02) and values[:3].max() == HIDDEN
    assert np.all(np.abs(values[3:] - 0.5) < 0.15)
    assert best.randomness[-1] == 0.0  # type: ignore[index]
    calls = iter(range(10))
    assert descended(start, 64, lambda s: -float(next(calls)), 40, lambda: True)[1] == 0.0  # stops at once


def tuned(tiny: tuple[Path, Path], folder: Path, **options: Any) -> Any:
    spec, weights = tiny
    (folder.parent / "judge.py").write_text(METRIC)
    metric = f"{folder.parent / 'judge.py'}:judge"
    given = {"budget": ["evaluations=16"], "evaluations": (2,), "samples": 16, "metric": metric, **options}
    return api.tune(spec, weights, folder, **given)


def test_the_folder(tiny: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("latentc.tune.compiled.SECONDS", 0.0)
    monkeypatch.setattr("latentc.tune.masked.UPDATES", 2)
    found = tuned(tiny, tmp_path / "tuned")
    rows = list(csv.DictReader((tmp_path / "tuned" / "candidates.csv").open()))
    assert {row["found"] for row in rows} == {"spec", "grid", "schedules"}
    light = {row["found"]: float(row["search_error"]) for row in rows if row["search_error"]}
    assert light["schedules"] <= light["grid"]  # the metric on the samples of the search
    assert found.chosen is not None and "error of the reference" not in found.text()
    api.compile(tmp_path / "tuned" / "tuned.yaml", tiny[1], tmp_path / "bundle")
    assert load(tmp_path / "bundle", "cpu").manifest.programs[0].steps == found.chosen.candidate.sampler.steps


def test_what_cannot_be_tuned(tiny: tuple[Path, Path], tmp_path: Path) -> None:
    spec, weights = tiny
    with pytest.raises(DiagnosticError, match="E0708"):
        api.tune(spec, weights, tmp_path / "out", overrides=["sampler={kind: halton}"])
    with pytest.raises(DiagnosticError, match="E0722"):  # nothing to judge samples by
        api.tune(spec, weights, tmp_path / "out")
