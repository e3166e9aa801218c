"""Sweeps: what is varied, which trials run and run again, what the folder holds, and what becomes of faults."""

from __future__ import annotations

import csv
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from forked import run_training
from tiny_model import HEAD

from latentc import api
from latentc.api import sweep_trial
from latentc.diagnostics import Diagnostic, DiagnosticError
from latentc.spec import data_from_spec, load_spec
from latentc.sweep import plot, trials, workers
from latentc.sweep.axes import axes_from_text, grid, is_grid
from latentc.sweep.trials import DIVERGED, DONE, FAILED, MEMORY, REFUSED, Job, Judging, Outcome, outcome_in, run_trial

pytest.importorskip("optuna")
pytest.importorskip("matplotlib")

SPEC = f"""{HEAD}
objective: {{kind: diffusion, predicts: velocity, process: {{kind: discrete, schedule: cosine}}}}
sampler: {{kind: ddim, steps: 3, guidance: {{scale: 1.5}}}}
train: {{steps: 3, batch_size: 8, parallel: none, workers: 0, sample_every: null, optimizer: {{kind: adamw, lr: 1e-3}}}}
variants: {{wide: {{backbone: {{width: 32}}}}}}
"""
LR, SCALE = "train.optimizer.lr=1e-4,3e-4,1e-3", "sampler.guidance.scale=1,2"


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    file = tmp_path / "tiny.yaml"
    file.write_text(SPEC)
    return file


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[list[Job]]:
    """The jobs that ran; their figure is the distance of the learning rate from 3e-4 and of the scale from 2."""
    jobs: list[Job] = []

    def fake(text: str, environment: object, stop: threading.Event) -> None:
        job = Job.from_text(text)
        jobs.append(job)
        values = dict(one.split("=", 1) for one in job.overrides)
        rate, scale = float(values.get("train.optimizer.lr", 0)), float(values.get("sampler.guidance.scale", 2))
        outcome = Outcome(DONE, {"fd_digits": abs(rate - 3e-4) * 1e3 + abs(scale - 2)}, "", 2.0)
        if rate >= 1:
            outcome = Outcome(DIVERGED, {}, "the loss is nan at step 2", 1.0)
        folder = Path(job.folder)
        folder.mkdir(parents=True, exist_ok=True)
        outcome.write(folder)

    monkeypatch.setattr(workers, "run_trial", fake)
    if "references" not in request.fixturenames:
        monkeypatch.setattr("latentc.evaluate.judge.open_judge", lambda *given: None)
    if "plots" not in request.fixturenames:
        monkeypatch.setattr("latentc.sweep.run.write_plot", lambda swept, folder: None)
    yield jobs


@pytest.fixture
def references() -> None:
    """The test's references are opened."""


@pytest.fixture
def plots() -> None:
    """The test's plots are drawn."""


# ---- what is varied


def test_settings_are_values_ranges_or_fixed() -> None:
    fixed, axes = axes_from_text(
        [
            "train.steps=5",
            "a.lr=1e-4, 3e-4",
            "a.betas=[0.9, 0.99],[0.8, 0.9]",
            "a.b={c: 1, d: 2},'x,y'",
            "a.rate=1e-4..1e-2:log",
            "a.depth=2..8",
            'name="a,b"',
        ]
    )
    assert fixed == ["train.steps=5", 'name="a,b"']
    assert [axis.values for axis in axes[:3]] == [
        ("1e-4", "3e-4"),
        ("[0.9, 0.99]", "[0.8, 0.9]"),
        ("{c: 1, d: 2}", "'x,y'"),
    ]
    assert (axes[3].low, axes[3].high, axes[3].log, axes[3].whole) == (1e-4, 1e-2, True, False)
    assert axes[4].whole and not axes[4].log and not is_grid(axes) and is_grid(axes[:3])


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["train.steps=5"], "needs a setting that varies"),
        (["a.b=1,,2"], "empty value"),
        (["a.b=2..1"], "smaller number"),
        (["a.b=1..1e999"], "smaller number"),
        (["a.b=0..1:log"], "above 0"),
        (["a.b=1,2", "a.b=1..3"], "varies twice"),
    ],
)
def test_settings_that_make_no_sweep(texts: list[str], said: str) -> None:
    with pytest.raises(DiagnosticError, match=said) as caught:
        axes_from_text(texts)
    assert caught.value.diagnostics[0].code == "E0717"


def test_trainings_come_before_what_shares_them() -> None:
    _, axes = axes_from_text([SCALE, "train.steps=1,2"])
    assert [tuple(one.values()) for one in grid(axes)] == [("1", "1"), ("1", "2"), ("2", "1"), ("2", "2")]


# ---- the folder


def test_a_grid(spec: Path, tmp_path: Path, plots: None, ran: list[Job]) -> None:
    lines: list[str] = []
    out = tmp_path / "swept"
    found = api.sweep(
        spec, out, [LR, SCALE, "train.steps=2"], workers="2", progress=lambda *said: lines.append(said[2])
    )
    assert len(ran) == 6 and len({job.folder for job in ran}) == 6 and len({job.training for job in ran}) == 3
    assert all("train.steps=2" in job.training_overrides for job in ran)
    assert not any("scale" in text for job in ran for text in job.training_overrides)
    assert found.best is not None and dict(found.best.chosen) == {
        "train.optimizer.lr": "3e-4",
        "sampler.guidance.scale": "2",
    }
    assert found.metric == "fd_digits" and found.rows[0].outcome.figures["fd_digits"] == 0
    assert {file.name for file in out.iterdir()} >= {
        "best.yaml",
        "results.csv",
        "results.txt",
        "sweep.svg",
        "sweep.png",
    }
    rows = list(csv.DictReader((out / "results.csv").open()))
    assert [row["status"] for row in rows] == ["done"] * 6 and rows[0]["train.optimizer.lr"] == "3e-4"
    assert "→  3e-4" in (out / "results.txt").read_text() and "lr 3e-4, scale 2: fd_digits 0" in lines
    best = (out / "best.yaml").read_text()
    assert "extends: ../tiny.yaml" in best
    wanted = ["train.optimizer.lr=3e-4", "sampler.guidance.scale=2", "train.steps=2"]
    assert data_from_spec(load_spec(out / "best.yaml")) == data_from_spec(load_spec(spec, None, wanted))
    assert found.weights == out.absolute() / "trainings" / found.best.training.name / "runs/train/weights.safetensors"
    assert json.dumps(found.data())


def test_the_best_of_what_no_spec_can_add(spec: Path, tmp_path: Path, ran: list[Job]) -> None:
    """A mapping in place of another, of a variant: written whole."""
    settings = ["train.optimizer={kind: sgd, lr: 3e-4},{kind: lion, lr: 1e-4}", "train.optimizer.betas=null"]
    found = api.sweep(spec, tmp_path / "swept", settings[:1], "wide")
    assert found.best is not None
    (path,) = found.best.chosen
    wanted = load_spec(spec, "wide", [f"{path}={found.best.chosen[path]}"])
    best = load_spec(tmp_path / "swept/best.yaml")
    assert data_from_spec(best)["train"] == data_from_spec(wanted)["train"] and best.networks == wanted.networks


def test_faults_are_rows(spec: Path, tmp_path: Path, ran: list[Job], monkeypatch: pytest.MonkeyPatch) -> None:
    found = api.sweep(spec, tmp_path / "swept", ["train.optimizer.lr=3e-4,1,2"])
    assert [row.outcome.status for row in found.rows] == [DONE, DIVERGED, DIVERGED]
    assert "diverged (2 times): the loss is nan at step 2" in found.text()
    assert plot.drawn(found).axes
    with pytest.raises(DiagnosticError, match="the loss is nan") as caught:
        api.sweep(spec, tmp_path / "none", ["train.optimizer.lr=1,2"])
    assert caught.value.diagnostics[0].code == "E0718" and (tmp_path / "none/results.csv").is_file()


def test_a_sweep_goes_on(spec: Path, tmp_path: Path, ran: list[Job], monkeypatch: pytest.MonkeyPatch) -> None:
    usual = workers.run_trial

    def interrupted(text: str, *rest: Any) -> None:
        if len(ran) == 2:
            raise KeyboardInterrupt
        usual(text, *rest)

    monkeypatch.setattr(workers, "run_trial", interrupted)
    with pytest.raises(KeyboardInterrupt):
        api.sweep(spec, tmp_path / "swept", [LR])
    assert len(ran) == 2
    monkeypatch.setattr(workers, "run_trial", usual)
    assert len(api.sweep(spec, tmp_path / "swept", [LR]).rows) == 3 == len(ran)  # the last alone
    assert len(api.sweep(spec, tmp_path / "swept", [f"{LR},3e-3"]).rows) == 4 == len(ran)  # the new value alone
    api.sweep(spec, tmp_path / "swept", [f"{LR},3e-3"])
    assert len(ran) == 4
    lost = Path(ran[-1].folder) / "result.json"
    lost.unlink()
    api.sweep(spec, tmp_path / "swept", [f"{LR},3e-3"])
    assert len(ran) == 5 and lost.is_file()
    spec.write_text(SPEC.replace("batch_size: 8", "batch_size: 16"))
    api.sweep(spec, tmp_path / "swept", [LR])
    assert len(ran) == 8


def test_ranges_are_proposed_from(spec: Path, tmp_path: Path, ran: list[Job]) -> None:
    settings = ["train.optimizer.lr=1e-5..1e-2:log", "sampler.guidance.scale=1,2", "sampler.steps=2..4"]
    found = api.sweep(spec, tmp_path / "swept", settings, trials=4)
    rates = [float(row.chosen["train.optimizer.lr"]) for row in found.rows]
    assert len(rates) == 4 and all(1e-5 <= rate <= 1e-2 for rate in rates) and len(set(rates)) == 4
    again = api.sweep(spec, tmp_path / "again", settings, trials=4)
    assert [row.chosen for row in again.rows] == [row.chosen for row in found.rows]
    more = api.sweep(spec, tmp_path / "swept", settings, trials=6)
    assert len({tuple(row.chosen.values()) for row in more.rows}) == 6 and len(ran) == 10
    load_spec(tmp_path / "swept/best.yaml")


def test_the_legend_lies_within_the_picture(spec: Path, tmp_path: Path, ran: list[Job]) -> None:
    settings = ["train.optimizer.lr=3e-4,1", "train.optimizer.betas=[0.9, 0.99],[0.8, 0.9]"]
    found = api.sweep(spec, tmp_path / "swept", settings)
    figure = plot.drawn(found)
    figure.draw_without_rendering()
    box = figure.legends[0].get_window_extent()
    assert len(figure.axes) == 2 and box.x0 >= 0 and box.x1 <= figure.bbox.x1 and box.y0 >= 0


@pytest.mark.parametrize(
    ("settings", "options", "code"),
    [
        (["train.optimiser.lr=1,2"], {}, "E0201"),
        (["backbone.width=15,17"], {}, "E0305"),
        (["train.steps"], {}, "E0717"),
        (["train.steps=1,2"], {"metrics": ["charm"]}, "E0714"),
        (["train.steps=1,2"], {"workers": "few"}, "E0741"),
        (["train.steps=1,2", "sampler=null"], {}, "E0708"),
        (["train.steps=1,2"], {"folder": "taken"}, "E0502"),
    ],
)
def test_mistakes_end_it_before_it_begins(
    spec: Path, tmp_path: Path, ran: list[Job], settings: list[str], options: dict[str, Any], code: str
) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/thesis.tex").write_text("…")
    folder = tmp_path / options.pop("folder", "swept")
    with pytest.raises(DiagnosticError) as caught:
        api.sweep(spec, folder, settings, **options)
    assert caught.value.diagnostics[0].code == code and not ran
    assert code != "E0305" or "backbone.width=17" in str(caught.value)
    assert not (tmp_path / "taken/trials").exists()


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"reference": "nowhere"}, "E0401"),
        ({"metrics": ["fid"], "features": ["principal"]}, "E0714"),
        ({"features": ["inception=nowhere.pth"]}, "E0401"),
    ],
)
def test_nothing_trains_that_cannot_be_judged(
    spec: Path, tmp_path: Path, references: None, ran: list[Job], options: dict[str, Any], code: str
) -> None:
    with pytest.raises(DiagnosticError) as caught:
        api.sweep(spec, tmp_path / "swept", ["train.steps=1,2"], **options)
    assert caught.value.diagnostics[0].code == code and not ran and not (tmp_path / "swept").exists()


# ---- a trial


def job_in(folder: Path, spec: str = "missing.yaml", *overrides: str) -> Job:
    judging = Judging(features=("principal",), count=20, device="cpu")
    return Job(spec, overrides, (), str(folder / "trainings/a"), str(folder / "trials/a"), judging, ())


def test_trials_share_a_training(spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    began: list[Path] = []

    def training(project: Path, arguments: Any, processes: int, log: Any) -> None:
        began.append(project)
        run_training(project, arguments, processes, log)

    monkeypatch.setattr("latentc.api.training.run_training", training)
    figures = sweep_trial.judged(job_in(tmp_path, str(spec), "sampler.guidance.scale=1"))
    assert list(figures) == ["fd_principal"] and began == [tmp_path / "trainings/a"]
    assert {file.name for file in (tmp_path / "trials/a/report").iterdir()} == {"report.html", "metrics.json"}

    def compiled(*given: Any, **options: Any) -> None:
        raise EOFError(given[4])

    monkeypatch.setattr(api, "compile", compiled)
    with pytest.raises(EOFError, match="scale=4"):
        sweep_trial.judged(job_in(tmp_path, str(spec), "sampler.guidance.scale=4"))
    assert len(began) == 1


def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> Callable[..., None]:
    """`run_trial` with a process that runs `code`."""
    (tmp_path / "other.py").write_text(code)
    monkeypatch.setattr(trials, "MODULE", "other")
    return lambda stop=None: run_trial(job_in(tmp_path).text(), {"PYTHONPATH": str(tmp_path)}, stop)


@pytest.mark.parametrize(
    ("code", "status", "said"),
    [
        ("import os; os.kill(os.getpid(), 9)", MEMORY, "signal 9, as the system sends it when memory runs out"),
        ("raise SystemExit(3)", FAILED, "status 3; see"),
    ],
)
def test_a_process_that_dies_is_a_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, status: str, said: str
) -> None:
    started(tmp_path, monkeypatch, code)()
    found = outcome_in(tmp_path / "trials/a")
    assert found is not None and found.status == status and said in found.message


def test_an_interruption_reaches_a_trial_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = """\
import pathlib, sys, time
try:
    pathlib.Path("begun").touch()
    time.sleep(30)
except KeyboardInterrupt:
    print("saved", flush=True)
    sys.exit(130)
"""
    monkeypatch.chdir(tmp_path)
    stop = threading.Event()
    run = started(tmp_path, monkeypatch, code)
    thread = threading.Thread(target=run, args=(stop,))
    thread.start()
    while not (tmp_path / "begun").exists():
        thread.join(0.02)
    stop.set()
    thread.join(20)
    assert not thread.is_alive() and outcome_in(tmp_path / "trials/a") is None
    assert (tmp_path / "trials/a/log.txt").read_text() == "saved\n"


@pytest.mark.parametrize(
    ("code", "message", "log", "status", "said"),
    [
        ("E0705", "train.py ended", "step 2: …\nthe loss is nan at step 3; runs keeps\n\n", DIVERGED, "nan at step 3"),
        ("E0705", "train.py ended", "torch.OutOfMemoryError: CUDA out of memory.\n", MEMORY, "CUDA out of memory"),
        ("E0705", "train.py was ended by signal 9", "", MEMORY, "signal 9"),
        ("E0705", "train.py ended with status 1", "batch_size: 8 is not divisible\n", FAILED, "not divisible"),
        ("E0710", "not enough memory", "", MEMORY, "memory"),
        ("E0720", "samples are not finite", "", DIVERGED, "finite"),
        ("E0305", "the width must be divisible", "", REFUSED, "E0305"),
        ("E0401", "no such file", "", FAILED, "E0401"),
    ],
)
def test_the_status_of_a_fault(tmp_path: Path, code: str, message: str, log: str, status: str, said: str) -> None:
    (tmp_path / "log.txt").write_text(log)
    found = sweep_trial.fault_of(Diagnostic(code, message), tmp_path / "log.txt")
    assert found[0] == status and said in found[1]


def test_workers_share_gpus_and_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert workers.environments(1, ["0", "1"], 8) == [{}]
    assert workers.environments(2, [], 8) == [{"OMP_NUM_THREADS": "4"}] * 2
    devices = [one["CUDA_VISIBLE_DEVICES"] for one in workers.environments(3, ["2", "5"], 8)]
    assert devices == ["2", "5", "2"]
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert workers.environments(2, [], 8) == [{}, {}]
