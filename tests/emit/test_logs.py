"""Curves and sample grids of a training project, in each log that a spec may name; no log needs a server."""

from __future__ import annotations

import re
import shutil
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from forked import python
from PIL import Image

from latentc.components.contract import Lowered
from latentc.diagnostics import DiagnosticError
from latentc.emit import project_files, project_from_lowered
from latentc.files.templates import template
from latentc.lower import lower
from latentc.spec import load_spec

ALONE = 'import sys; sys.modules["latentc"] = sys.modules["latentc_runtime"] = None'
TINY = ["backbone.width=16", "backbone.depth=1", "backbone.block.mixer.heads=2", "sampler.steps=2"]
SHORT = ["--batch_size", "16", "--schedule.warmup", "0", "--workers", "0", "--steps", "4", "--checkpoint_every", "2"]
SHORT += ["--sample_every", "2", "--log_every", "1"]
PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow-skinny", "csv": ""}


@pytest.fixture(scope="module")
def lowered() -> Lowered:
    return lower(load_spec("digits_dit", overrides=TINY))


def files_of(lowered: Lowered, log: str) -> dict[str, str]:
    files = project_files(lowered, load_spec("digits_dit", overrides=[*TINY, f"train.log={log}"]))
    return {path: str(text) for path, text in files.items()}


@pytest.mark.parametrize("named", [["csv"], ["wandb", "mlflow", "tensorboard"]])
def test_a_project_has_the_logs_that_its_spec_names(lowered: Lowered, named: list[str]) -> None:
    files = files_of(lowered, f"[{', '.join(named)}]")
    for kind, package in PACKAGES.items():
        asked = kind in named
        assert (f'"{kind}"' in files["latentc_support/logs.py"]) == asked, kind
        assert (f'"{kind}"' in files["latentc_support/config.py"]) == asked, kind
        assert not package or (package in files["requirements.txt"]) == asked, kind
    assert ("pillow" in files["requirements.txt"]) == (named != ["csv"])


def test_without_logs_there_are_grids_alone(lowered: Lowered) -> None:
    files = files_of(lowered, "[]")
    assert "class Logs" not in files["latentc_support/logs.py"] and "Logs" not in files["train.py"]
    assert "log:" not in files["config.yaml"] and '"train.log"' not in files["latentc_support/config.py"]


def test_without_pictures_there_are_curves_alone() -> None:
    spec = load_spec("digits_dit", overrides=[*TINY, "data={kind: npz, path: d.npz, classes: 3, shape: [6, 8, 8]}"])
    files = {path: str(text) for path, text in project_files(lower(spec), spec).items()}
    shows = "grids_of" in files["latentc_support/logs.py"]
    assert shows == ("latentc_support/pixels.py" in files) == ("logs.show" in files["train.py"])
    assert "class TensorBoard" in files["latentc_support/logs.py"]


# As wandb behaves without an account.
WITHOUT_KEY = """
import types
wandb = sys.modules["wandb"] = types.ModuleType("wandb")
wandb.Error, wandb.Image = type("Error", (Exception,), {}), None
def init(**given):
    raise wandb.Error("No API key configured.\\nUse `wandb login`.")
wandb.init = init
"""


def test_a_log_is_named_once() -> None:
    with pytest.raises(DiagnosticError, match="names a log twice"):
        load_spec("digits_dit", overrides=["train.log=[csv, csv]"])


@dataclass(frozen=True)
class Run:
    """The folder of a run that was resumed; what the first part printed, and its rows of metrics.csv."""

    folder: Path
    said: str
    rows: list[list[str]]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a spec that names all logs and two of its classes."""
    folder = tmp_path_factory.mktemp("logged") / "project"
    names = ["zero, nought", "two words/and: more", *map(str, range(2, 10))]
    overrides = [*TINY, "train.log=[tensorboard, csv, wandb, mlflow]", f"data.class_names={names}"]
    spec = load_spec("digits_dit", overrides=overrides)
    project_from_lowered(lower(spec), spec, folder)
    return folder


@pytest.fixture(scope="module")
def run(project: Path) -> Run:
    """Its last checkpoint was lost, and the rest trained again."""
    command = ["train.py", *SHORT, "--log", "[tensorboard, csv]", "--out", "runs/one"]
    first = python(project, *command, before=ALONE)
    assert first.returncode == 0, first.stdout + first.stderr
    folder = project / "runs/one"
    made = Run(folder, first.stdout, rows_of(folder / "metrics.csv"))
    shutil.rmtree(folder / "checkpoints/step-00000004")
    with (folder / "metrics.csv").open("a") as file:
        file.write("12,lo")  # of a process that was killed
    again = python(project, *command, "--resume", "true", before=ALONE)
    assert again.returncode == 0 and "resumed" in again.stdout, again.stdout + again.stderr
    return made


def rows_of(file: Path) -> list[list[str]]:
    """Rows of metrics.csv without the speed, which differs between runs."""
    head, *rows = [line.split(",") for line in file.read_text().splitlines()]
    assert head == ["step", "metric", "value"]
    return [row for row in rows if row[1] != "samples_a_second"]


FOLDERS = ["class_0_zero", "class_1_two_words_and_more", *(f"class_{i}" for i in range(2, 10))]


@pytest.mark.slow
def test_a_log_without_a_terminal_has_totals_and_the_time_left(run: Run) -> None:
    lines = [line for line in run.said.splitlines() if line.startswith("step ")]
    assert [line.split(":")[0] for line in lines] == [f"step {i}/4" for i in range(1, 5)]
    assert all(re.search(r": loss \S+, gradient_norm \S+, \d+ samples/s, \d\d:\d\d left$", line) for line in lines)
    assert lines[-1].endswith("00:00 left")


@pytest.mark.slow
def test_there_is_a_grid_per_class(run: Run) -> None:
    samples = run.folder / "samples"
    assert sorted(path.name for path in samples.iterdir()) == ["00000002.png", "00000004.png", *FOLDERS]
    for folder in FOLDERS:
        assert sorted(path.name for path in (samples / folder).iterdir()) == ["00000002.png", "00000004.png"]
    grid = np.asarray(Image.open(samples / "class_0_zero/00000004.png"))
    assert grid.shape == (2 * 48 + 2, 4 * 48 + 3 * 2)  # four in a row, enlarged
    sheet = np.asarray(Image.open(samples / "00000004.png"))[:48, -8 * 48 - 7 * 2 :]  # the first row
    assert np.array_equal(sheet[:, : 4 * 48 + 3 * 2], grid[:48])


@pytest.mark.slow
def test_a_resumed_run_continues_its_table(run: Run) -> None:
    assert rows_of(run.folder / "metrics.csv") == run.rows
    assert [row[0] for row in run.rows if row[1] == "loss"] == ["1", "2", "3", "4"]


@pytest.mark.slow
def test_tensorboard_shows_curves_and_grids(run: Run) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator").EventAccumulator
    events = accumulator(str(run.folder / "tensorboard"), size_guidance={"images": 0})
    events.Reload()
    assert events.Tags()["images"] == [f"samples/{folder}" for folder in FOLDERS]
    assert [(image.step, image.height) for image in events.Images("samples/class_3")] == [(2, 98), (4, 98)]
    assert {name for _, name, _ in run.rows} | {"samples_a_second"} == set(events.Tags()["scalars"])
    losses = {int(step): float(value) for step, name, value in run.rows if name == "loss"}
    assert {event.step: event.value for event in events.Scalars("loss")} == pytest.approx(losses)


TWO_STARTS = """
import numpy as np
from latentc_support.config import load_config
from latentc_support.logs import Logs
config = load_config(["--log", LOGS, "--out", "runs/two"])
for start, steps in ((0, (1, 2)), (1, (2, 3))):  # the second goes on from a checkpoint of step 1
    logs = Logs(config, start)
    for step in steps:
        logs.add({"loss": 1 / step}, step)
        logs.show({"class_3": np.full((98, 198, 1), step, np.uint8)}, step)
    logs.close()
"""


@pytest.fixture(scope="module")
def two(project: Path) -> Path:
    """The folder of a run that was started twice and logged by wandb and MLflow, as far as they are installed."""
    logs = f"[csv, {', '.join(kind for kind in ('wandb', 'mlflow') if find_spec(kind))}]"
    env = {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "MLFLOW_TRACKING_URI": ""}
    done = python(project, "-c", TWO_STARTS.replace("LOGS", repr(logs)), env=env, before=ALONE)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [row[::2] for row in rows_of(project / "runs/two/metrics.csv")] == [
        ["1", "1.0"],
        ["2", "0.5"],
        ["3", str(1 / 3)],
    ]
    return project / "runs/two"


@pytest.mark.slow
@pytest.mark.skipif(find_spec("wandb") is None, reason="wandb is not installed")
def test_wandb_writes_one_run_offline(two: Path) -> None:
    name, steps = (two / "wandb_id.txt").read_text(), list[int]()
    for folder in sorted((two / "wandb").glob("offline-run-*")):  # one per start, unless both were in one second
        assert folder.name.endswith(name)
        records = [file.read_bytes() for file in folder.glob("*.wandb")]
        assert records and all(b"loss" in record for record in records)
        pictures = (folder / "files/media/images/samples").glob("class_3_*.png")
        steps += sorted(int(path.name.split("_")[2]) for path in pictures)
    assert sorted({*steps}) == [1, 2, 3]


@pytest.mark.slow
@pytest.mark.skipif(find_spec("mlflow") is None, reason="mlflow is not installed")
def test_mlflow_writes_one_run_to_a_folder(two: Path) -> None:
    (folder,) = (path.parent for path in (two / "mlflow").glob("*/*/params"))
    assert (folder / "params/train.batch_size").read_text() == "128"
    rows = [line.split() for line in (folder / "metrics/loss").read_text().splitlines()]  # time, value, step
    assert {(int(step), float(value)) for _, value, step in rows} == {(1, 1.0), (2, 0.5), (3, 1 / 3)}
    assert len(list((folder / "artifacts/images").glob("samples*class_3*.png"))) == 4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flag", "before", "why"),
    [
        ("[wandb]", 'sys.modules["wandb"] = None', "the package wandb is missing: pip install -r"),
        ("[mlflow]", 'sys.modules["mlflow"] = None', "the package mlflow is missing: pip install -r"),
        (
            "[wandb]",
            WITHOUT_KEY,
            "train.log: wandb: No API key configured. Use `wandb login`; WANDB_MODE=offline",
        ),
        ("[files]", "", "train.log: ['files'] is not a list of some of tensorboard, csv, wandb, mlflow"),
    ],
)
def test_a_log_that_cannot_be_written_ends_training_at_once(project: Path, flag: str, before: str, why: str) -> None:
    done = python(project, "train.py", *SHORT, "--log", flag, "--out", "none", before=f"{ALONE}\n{before}")
    assert done.returncode == 1 and done.stderr.startswith(why), done.stderr
    assert not (project / "none/checkpoints").exists()


def test_long_work_without_a_terminal_prints_lines(capsys: pytest.CaptureFixture[str]) -> None:
    module: dict[str, Any] = {}
    exec(template("project/support/progress.py"), module)
    assert list(module["shown"](range(3), desc="first stage", unit="image")) == [0, 1, 2]
    assert capsys.readouterr().out == ""  # of what is soon done
    module["EVERY"] = 0.0
    with module["shown"](total=4, desc="features", unit="sample") as bar:
        for _ in range(2):
            time.sleep(0.01)
            bar.update(2)
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "features: 4 of 4 samples, 00:00 left" and "2 of 4 samples" in lines[-2]
