"""`latentc runs`: runs in folders as text, as JSON, and on a page that a browser opens."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from browser import look_at
from PIL import Image

from latentc import api
from latentc.cli import run as command
from latentc.diagnostics import DiagnosticError
from latentc.evaluate.charts import chart, log_ticks
from latentc.runs.report import differences
from latentc.runs.text import BARS, PLAIN, WIDTH, ago, sparkline, text_of

HOSTILE = "<script>alert(1)</script>"


def make_run(folder: Path, steps: int = 2000, reached: int = 2000, **train: Any) -> Path:
    """A run as train.py leaves it, without weights that anything reads."""
    folder.mkdir(parents=True)
    config = {"name": "digits", "train": {"out": str(folder), "steps": steps, "log": ["csv"], **train}}
    (folder / "config.yaml").write_text("# step 20: train.clip changed from 1 to 2\n" + yaml.safe_dump(config))
    rows = ["step,metric,value"]
    for step in range(100, reached + 1, 100):
        rows += [f"{step},loss,{50 / step}", f"{step},learning_rate,{1 - step / steps}"]
        rows += [f"{step},evaluate/fd_principal,{9 - step / steps}"] if step % 1000 == 0 else []
    (folder / "metrics.csv").write_text("\n".join([*rows, f"{reached + 50},lo"]))
    (folder / "samples/class_0").mkdir(parents=True)
    for step, side in ((1000, 40), (reached, 900)):
        Image.new("RGB", (side, side), (step % 200, 90, 90)).save(folder / f"samples/{step:08d}.png")
    if reached == steps:
        (folder / "weights.safetensors").touch()
    return folder


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two runs of one project, one of them under way, and one of another whose name is hostile."""
    make_run(tmp_path / "digits/runs/train")
    make_run(tmp_path / "digits/runs/wide", reached=1200, optimizer={"lr": 1e-3, "betas": [0.9, 0.95]})
    make_run(tmp_path / "other/runs" / HOSTILE.replace("/", "_"), optimizer={"lr": 2e-3})
    (tmp_path / "digits/config.yaml").write_text("train: {}")  # of a project: no run
    (tmp_path / ".hidden").mkdir()
    make_run(tmp_path / ".hidden/runs/train")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_runs_are_found_below_a_folder(home: Path) -> None:
    found = api.runs()
    assert [run.name for run in found] == [
        "digits/runs/train",
        "digits/runs/wide",
        f"other/runs/{HOSTILE.replace('/', '_')}",
    ]
    first, second, _ = found
    assert (first.step, first.total, first.finished) == (2000, 2000, True)
    assert (second.state, second.finished) == ("1,200 of 2,000 steps", False)
    assert first.curves["loss"][-1] == (2000, 0.025) and len(first.curves["loss"]) == 20
    assert sorted(first.grids) == [1000, 2000]
    assert [run.name for run in api.runs([home / "digits", "digits/runs/train"])] == [run.name for run in found[:2]]


def test_the_list_shows_losses_and_metrics(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["runs", "digits"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "digits/runs/train: finished, 2,000 steps, just now"
    assert lines[1].split()[0] == "loss" and lines[1].split()[1][0] == BARS[-1] and lines[1].split()[1][-1] == BARS[0]
    assert lines[1].split()[2:] == ["0.025", "(0.025", "to", "0.5)"]
    assert lines[2].split()[0] == "evaluate/fd_principal" and "learning_rate" not in "".join(lines)
    assert command(["runs", "digits", "--curve", "learning_rate"]) == 0
    assert "learning_rate" in capsys.readouterr().out
    assert command(["runs", "digits", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found[1]["step"] == 1200 and found[1]["curves"]["loss"]["step"][:2] == [100, 200]


@pytest.mark.parametrize(
    ("words", "code"),
    [(["nowhere"], "E0401"), (["digits/runs/train/samples"], "E0719"), (["digits", "--curve", "los"], "E0719")],
)
def test_what_is_not_there_is_refused(
    home: Path, capsys: pytest.CaptureFixture[str], words: list[str], code: str
) -> None:
    assert command(["runs", *words]) == 1
    assert f"error[{code}]" in capsys.readouterr().err


def test_damaged_files_are_no_curves(home: Path) -> None:
    (home / "digits/runs/train/config.yaml").write_bytes(b"\xff: [")
    (home / "digits/runs/wide/metrics.csv").write_bytes(b"step,metric,value\n\xff\n3,loss\n4,loss,nan\n")
    first, second = api.runs(["digits"])
    assert (first.total, first.state) == (None, "2,000 steps")
    assert "!" in text_of([second]) and math.isnan(second.curves["loss"][0][1])
    api.compare_runs([first, second], home / "page.html")
    (home / "digits/runs/wide/metrics.csv").unlink()
    (home / "digits/runs/wide/wandb_id.txt").write_text("0a1b")
    assert "its curves are in wandb" in text_of(api.runs(["digits/runs/wide"]))


def test_curves_of_tensorboard_are_read_where_there_is_no_table(tmp_path: Path) -> None:
    writer = pytest.importorskip("torch.utils.tensorboard").SummaryWriter(str(tmp_path / "run/tensorboard"))
    for step in (10, 20):
        writer.add_scalar("loss", 1 / step, step)
    writer.close()
    (tmp_path / "run/config.yaml").write_text("train: {steps: 20}")
    (run,) = api.runs([tmp_path])
    assert run.curves["loss"] == [(10, pytest.approx(0.1)), (20, pytest.approx(0.05))]


def test_sparklines() -> None:
    line = sparkline([(step, float(step)) for step in range(1000)])
    assert len(line) == WIDTH and line[0] == "▁" and line[-1] == "█" and list(line) == sorted(line)
    assert sparkline([(1, 3.0)]) == "▁" and sparkline([(1, 2.0), (2, 2.0)], PLAIN) == "__"
    assert sparkline([(1, math.nan), (2, 1.0), (3, math.inf), (4, 2.0)]) == "!▁!█"
    wide = [(0, 1000.0), (1, 10.0), (2, 0.1)]
    assert sparkline(wide) == "█▄▁" or sparkline(wide) == "█▅▁"  # on a log scale
    assert [ago(s) for s in (3, 60, 7300, 90_000)] == ["just now", "1 minute ago", "2 hours ago", "1 day ago"]


def test_a_log_scale_has_ticks_around_its_values() -> None:
    for low, high in ((0.1, 0.3), (-2.3, 1.7), (0, 0), (-9, 4)):
        found = log_ticks(low, high)
        assert found == sorted(found) and found[0] <= low + 1e-9 and found[-1] >= high - 1e-9 and len(found) <= 14
    made = chart("loss", "step", {"a": [(0, 100.0), (40_000, 0.1)]}, log=True)
    assert "100" in [text for _, text in made.y_ticks] and "40k" in [text for _, text in made.x_ticks]
    assert made.lines[0].marks[0].title == "a 100 at step 0"


def test_the_page_compares_runs(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["runs", "--html", "out/page.html", "digits/runs/train", "digits/runs/wide", "other"]) == 0
    assert capsys.readouterr().out == "out/page.html\n"
    page = (home / "out/page.html").read_text(encoding="utf-8")
    assert "<script" not in page and "&lt;script&gt;" in page
    assert "http" not in page and page.count("data:image/png") == 3 and page.count("data:image/jpeg") == 3
    rows = dict(differences(api.runs()))
    assert rows == {"train.optimizer.lr": ["–", "0.001", "0.002"], "train.optimizer.betas": ["–", "[0.9, 0.95]", "–"]}
    assert (
        page.count('class="best"') == 2 and page.count('class="worst"') == 1
    )  # fd_principal is lower in finished runs


def test_pages_of_too_many_runs_are_refused(home: Path) -> None:
    with pytest.raises(DiagnosticError, match="E0719"):
        api.compare_runs(api.runs() * 20, home / "page.html")
    assert not (home / "page.html").exists()


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_shows_the_page(home: Path, scheme: str) -> None:
    async def look(page: Any) -> None:
        assert await page.locator("h2").all_inner_texts() == ["Settings that differ", "Curves", "Samples"]
        assert await page.locator("svg").count() == 3 and await page.locator("svg path").count() == 9
        drawn = await page.evaluate("[...document.images].map(i => i.naturalWidth)")
        assert sorted(drawn) == [40, 40, 40, 640, 640, 640]
        assert await page.evaluate("document.documentElement.scrollWidth") <= 1100
        back = await page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (back == "rgb(20, 23, 28)") == (scheme == "dark")

    api.compare_runs(api.runs(), home / "page.html")
    look_at(home / "page.html", look, scheme)
