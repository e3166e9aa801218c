"""Leagues: one size of images, specs of every system for them, rows that stay, and what becomes of faults."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from forked import run_training

from latentc import api
from latentc.api import leagues
from latentc.cli import run as command
from latentc.diagnostics import DiagnosticError
from latentc.league import classifier
from latentc.league.entries import Stage, chosen, overrides, stage_entry, systems
from latentc.league.images import SIDE, Images, prepared
from latentc.league.results import Engine, League, Standing, Times, drawn, write_plot
from latentc.lower import lower
from latentc.spec import load_spec, resolved_yaml

pytest.importorskip("matplotlib")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty pictures of 20 × 20 pixels of two classes: dark ones and bright ones."""
    rng = np.random.default_rng(0)
    labels = np.arange(40) % 2
    pictures = rng.integers(0, 90, (40, 20, 20, 1)) + 160 * labels[:, None, None, None]
    file = tmp_path_factory.mktemp("league") / "shades.npz"
    np.savez(file, images=pictures.astype(np.uint8), labels=labels)
    return file


def test_images_are_of_one_size_and_some_are_held_out(data: Path, tmp_path: Path) -> None:
    images = prepared(data, tmp_path)
    assert (images.channels, images.classes) == (1, 2)
    with np.load(images.training) as seen, np.load(images.held_out) as held, np.load(data) as given:
        assert seen["arr_0"].shape == (36, SIDE, SIDE, 1) and np.bincount(held["arr_1"]).tolist() == [2, 2]
        both = np.concatenate([seen["arr_0"], held["arr_0"]])
        border = both.copy()
        border[:, 6:26, 6:26] = 0
        assert not border.any()
        found = sorted(map(bytes, both[:, 6:26, 6:26]))
        assert found == sorted(map(bytes, given["images"]))
    with np.load(images.training) as before:
        written = images.training.stat().st_mtime_ns
        assert prepared(data, tmp_path) == images and images.training.stat().st_mtime_ns == written
        assert before["arr_1"].dtype == np.int64


def test_large_and_coloured_images_are_resized(tmp_path: Path) -> None:
    colours = np.array([[200, 30, 90], [10, 120, 60]], np.uint8)
    pictures = np.broadcast_to(colours[np.arange(20) % 2][:, None, None], (20, 64, 48, 3))
    np.savez(tmp_path / "colours.npz", images=pictures, labels=np.arange(20) % 2)
    images = prepared(tmp_path / "colours.npz", tmp_path)
    with np.load(images.training) as arrays:
        assert arrays["arr_0"].shape[1:] == (SIDE, SIDE, 3)
        assert (arrays["arr_0"] == colours[arrays["arr_1"]][:, None, None]).all()


def test_images_without_classes_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "plain.npz", images=np.zeros((4, 8, 8, 1), np.uint8))
    with pytest.raises(DiagnosticError, match="E0424"):
        prepared(tmp_path / "plain.npz", tmp_path)


@pytest.mark.parametrize("name", systems())
def test_each_system_fits_the_images(name: str, tmp_path: Path) -> None:
    entry, images = systems()[name], Images(tmp_path, 3, 7, 1_000)
    stage = None
    if entry.stage is not None:
        first = load_spec(stage_entry(entry.stage).spec, None, overrides(stage_entry(entry.stage), images, None, 0))
        assert lower(first).updates
        stage = Stage(tmp_path / "stage.yaml", tmp_path / "w.safetensors", 0.1, 2.0)
        stage.spec.write_text(resolved_yaml(first))
    spec = load_spec(entry.spec, None, overrides(entry, images, stage, 3))
    made = lower(spec, to_emit=True)
    assert made.updates and made.programs and spec.train.seed == 3 and spec.data.classes == 7


def test_latents_are_scaled_by_their_own_deviation(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Of codes [mean, log-variance]: 3 ± 2 in half of the latents each, with a variance of 5."""

    class Encoder:
        def sample(self, conditions: Any, program: str) -> np.ndarray:
            mean = 3 + 2 * np.sign(conditions["x"].mean((1, 2, 3)))
            codes = np.stack([mean, np.full_like(mean, np.log(5.0))], 1)
            return np.broadcast_to(codes[:, :, None, None], (*codes.shape, 4, 4))

    pictures = np.repeat(np.array([0, 255], np.uint8), 20)[:, None, None, None] * np.ones((1, SIDE, SIDE, 1), np.uint8)
    images = Images(tmp_path, 1, 2, 40)
    np.savez(images.training, arr_0=pictures, arr_1=np.arange(40) % 2)
    monkeypatch.setattr("latentc_runtime.load", lambda bundle, device: Encoder())
    assert leagues._moments(tmp_path, images) == pytest.approx((3, 3))


def test_what_a_first_stage_loses_is_a_share_of_the_variance(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A stage that halves every difference from the mean image, 0, loses a quarter; one that loses nothing, none."""

    class Stage:
        def __init__(self, factor: float) -> None:
            self.factor = factor

        def sample(self, conditions: Any, program: str) -> np.ndarray:
            assert program == "reconstruct"
            return self.factor * conditions["x"]

    pictures = np.repeat(np.array([0, 255], np.uint8), 20)[:, None, None, None] * np.ones((1, SIDE, SIDE, 1), np.uint8)
    images = Images(tmp_path, 1, 2, 40)
    np.savez(images.held_out, arr_0=pictures, arr_1=np.arange(40) % 2)
    for factor, lost in ((0.5, 0.25), (1.0, 0.0)):
        monkeypatch.setattr("latentc_runtime.load", lambda bundle, device, factor=factor: Stage(factor))
        assert leagues._lost(tmp_path, images) == pytest.approx(lost)


def test_averages_and_warm_ups_fit_short_trainings() -> None:
    """digits_jit averages with 0.995 and digits_edm2 by powers of the steps, which need no change."""
    assert leagues._shortened("digits_jit", 100) == ("train.schedule.warmup=10", "train.ema=0.900000")
    assert leagues._shortened("digits_jit", 100_000) == ()
    assert leagues._shortened("digits_edm2", 100) == ("train.schedule.warmup=10",)


def test_unknown_systems_are_named() -> None:
    assert [entry.name for entry in chosen(["vae", "dit", "vae"])] == ["vae", "dit"]
    with pytest.raises(DiagnosticError, match="did you mean `dit`"):
        chosen(["ditt"])


def test_a_league_runs_goes_on_and_says_what_failed(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    steps: list[int] = []

    def timed(self: Any, entry: Any, settings: tuple[str, ...], project: Path, count: int) -> float:
        steps.append(count)
        shutil.rmtree(project, ignore_errors=True)
        api.train(entry.spec, project, [], None, (*settings, f"train.steps={count}"))
        return 1 + 0.01 * count

    monkeypatch.setattr(classifier, "STEPS", 20)
    monkeypatch.setattr(leagues, "SECONDS", 0.05)
    monkeypatch.setattr("latentc.api.training.run_training", run_training)
    monkeypatch.setattr(leagues._Run, "_timed", timed)
    monkeypatch.chdir(tmp_path)
    words = ["league", str(data), "-o", "out", "--budget", "0.305s", "--count", "20"]
    assert command([*words, "--systems", "cgan"]) == 0
    assert steps == [16, 64, 30]
    out = capsys.readouterr().out
    assert "1 of 1 trainings of 0.305 processor seconds, 20 samples" in out and "cgan" in out
    row = json.loads(Path("out/systems/cgan-0/result.json").read_text())
    assert row["status"] == "done" and row["steps"] == 30 and row["trained"] == pytest.approx(1.3)
    assert {*row["engine"]["figures"]} >= {"fd_classifier", "accuracy", "copies"}  # few images have no precision
    times = json.loads(Path("out/results.json").read_text())["milliseconds"]
    assert times["cgan"]["engine"]["16"] > 0 and row["engine"]["bytes"] > 1_000

    made = leagues._Run.engine

    def small(self: Any, entry: Any, settings: tuple[str, ...], *rest: Any) -> Any:
        assert settings[-1] == "optimize.quantize={scheme: int8}", "the other engine is there"
        return made(self, entry, settings, *rest)

    monkeypatch.setattr(leagues._Run, "engine", small)
    assert command([*words[:-1], "30", "--systems", "cgan"]) == 1
    assert "holds a league begun with count 20, not 30" in capsys.readouterr().err
    assert command([*words, "--systems", "cgan", "--int8"]) == 0
    assert steps == [16, 64, 30]
    found = json.loads(Path("out/systems/cgan-0/result.json").read_text())
    assert found == {**row, "int8_message": "no layer is left to quantise as int8"}

    def refuse(*_: Any) -> None:
        raise DiagnosticError.of("E0705", "train.py ended with status 3")

    monkeypatch.setattr(leagues._Run, "_timed", refuse)
    assert command([*words, "--systems", "cgan,vae"]) == 0
    assert steps == [16, 64, 30]  # what is done is not run again
    out = capsys.readouterr().out
    assert "1 of 2 trainings" in out and "vae (seed 0): train.py ended with status 3 [E0705]" in out
    assert len(Path("out/results.csv").read_text().splitlines()) == 3
    assert json.loads(Path("out/results.json").read_text())["real"]["accuracy"] >= 0
    assert Path("out/league.png").stat().st_size > 1_000


@pytest.mark.parametrize("text", ["5", "m", "-1m", "nanm", "0s"])
def test_budgets_are_times(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["league", "digits.npz", "-o", str(tmp_path), "--budget", text]) == 1
    assert "is no time such as 30s" in capsys.readouterr().err


def test_rows_are_ranked_by_the_mean_of_their_seeds(tmp_path: Path) -> None:
    def row(system: str, seed: int, distance: float) -> Standing:
        engine = Engine({"fd_classifier": distance, "accuracy": 0.5}, 4_000_000)
        return Standing(system, "flow", "pixels", seed, "done", "", 1_000_000, 10, 1.0, 10**9, engine)

    rows = [row("a", 0, 3.0), row("b", 0, 1.0), row("a", 1, 1.0), row("b", 1, 2.0)]
    rows[3] = replace(rows[3], int8=Engine({"fd_classifier": 5.0}, 1_000_000))
    times = {name: Times({"1": 2.0, "16": 1.0}, {"1": 1.0, "16": 0.5}) for name in "ab"}
    found = League("pets", 60, 100, rows, times, lost={"codes": 0.25})
    assert [group[0].system for group in found.ranked()] == ["b", "a"]
    head, *lines = found.text().splitlines()[2:]
    assert head == "share of the variance of held-out images that first stages lose: codes 0.250"
    first, second = lines[2:4]
    assert first.split()[:6] == ["b", "pixels", "flow", "1.5", "1", "2"] and first.split()[-3:] == ["5", "0.5", "1.00"]
    assert second.split()[:6] == ["a", "pixels", "flow", "2", "1", "3"]
    write_plot(found, tmp_path)
    assert (tmp_path / "league.svg").read_text().count("<!-- b -->") == 1


def test_names_of_close_points_cover_neither_points_nor_names() -> None:
    engine = Engine({"fd_classifier": 30.0}, 0)
    rows = [
        Standing(name, "flow", "pixels", 0, "done", engine=replace(engine, figures={"fd_classifier": 30.0 + i}))
        for i, name in enumerate(("latent_mean_flow", "latent_mar", "starflow", "sit"))
    ]
    rows.append(replace(rows[0], system="cgan", engine=replace(engine, figures={"fd_classifier": 200.0})))
    times = {row.system: Times({"1": 2.0 + 0.1 * i}) for i, row in enumerate(rows)}
    times["cgan"] = Times({"1": 200.0})
    figure = drawn(League("shades", 60, 10, rows, times))
    figure.canvas.draw()
    (area,) = figure.axes
    names = [text.get_window_extent() for text in area.texts if text.get_text()]
    points = area.transData.transform(
        [(times[row.system].engine["1"], row.engine.figures["fd_classifier"]) for row in rows]
    )
    assert len(names) == len(rows)
    assert not any(a.overlaps(b) for i, a in enumerate(names) for b in names[:i])
    assert not any(name.contains(*point) for name in names for point in points)


def test_the_size_of_an_engine_leaves_out_its_calibration(tmp_path: Path) -> None:
    for name, count in (("sample.onnx", 3), ("weights/weights.safetensors", 40), ("quantization/calibration.npz", 500)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(bytes(count))
    assert leagues._bytes_of(tmp_path) == 43
