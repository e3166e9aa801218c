"""`make gpu` runs every step to its end with the CPU in the GPU's place, and goes on where it was cut off."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks/gpu.py"
STEPS = ("tests", "forward", "samplers", "tokens", "systems", "quantised", "training")


def call(out: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), "--stand-in", "--out", str(out), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


@pytest.mark.slow
@pytest.mark.parametrize("step", STEPS)
def test_steps_end_with_figures(tmp_path: Path, step: str) -> None:
    done = call(tmp_path, "--only", step)
    log = (tmp_path / f"{step}.log").read_text(encoding="utf-8")
    assert done.returncode == 0, f"{done.stdout}\n{log}"
    result = json.loads((tmp_path / f"{step}.json").read_text(encoding="utf-8"))
    assert result["cases"]
    for case, paths in result["cases"].items():
        assert paths, case
        for path, figures in paths.items():
            assert "failed" not in figures, f"{case}, {path}: {figures['failed']}"
            measured = [figures[name] for name in ("seconds", "samples_per_second") if name in figures]
            assert all(value > 0 for value in measured) and (measured or "count" in figures)
            assert f"| {path} |" in done.stdout
    assert f"{step}: was there" in call(tmp_path, "--only", step).stdout


def test_a_step_is_left_for_the_next_call(tmp_path: Path) -> None:
    done = call(tmp_path, "--only", "tokens", "--minutes", "0.5")
    assert done.returncode == 1 and "tokens: left for the next call" in done.stdout
    assert not list(tmp_path.glob("*.json"))


def test_unknown_steps_are_refused(tmp_path: Path) -> None:
    done = call(tmp_path, "--only", "tokens,speed")
    assert done.returncode == 2 and "no such step: speed" in done.stderr
