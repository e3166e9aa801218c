"""The package that `latentc init --component` writes: built, installed and used without the repository's help."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from own_packages import fresh
from test_wheel import built
from tiny_model import write_random_weights

from latentc import api
from latentc.cli import run
from latentc.diagnostics import DiagnosticError

__all__ = ["fresh"]
ROOT = Path(__file__).parents[1]
KINDS = ("network", "condition", "objective", "sampler", "block")

pytestmark = pytest.mark.usefixtures("fresh")

USED = """
from latentc.cli import run

for line in (
    "specs",
    "check my_network",
    "train my_network -o project --steps 2 --batch_size 8 --workers 0",
    "emit my_network -o other",
    "compile my_network -w project/runs/train/weights.safetensors -o bundle",
    "verify bundle",
    "sample bundle --class 3 --per-class 2 -o samples.npz",
):
    assert run(line.split()) == 0, line
"""


def test_the_package_is_built_installed_and_used(tmp_path: Path) -> None:
    """In an environment that has the wheel of the package and nothing of its source."""
    folder = api.init_component("network", tmp_path / "source/mypkg")
    wheel = built(folder, tmp_path / "dist", "wheel")
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "-q", "--target", tmp_path / "site"]
    subprocess.run([*install, wheel], check=True, capture_output=True, timeout=120)
    (tmp_path / "work").mkdir()
    paths = [tmp_path / "site", ROOT / "compiler", ROOT / "runtime"]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths)), "OMP_NUM_THREADS": "1"}
    line = [sys.executable, "-P", "-c", USED]
    done = subprocess.run(line, cwd=tmp_path / "work", env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "mypkg" in done.stdout and (tmp_path / "work/samples.npz").is_file()
    alone = {**env, "PYTHONPATH": str(ROOT / "runtime")}
    code = "import latentc_runtime, sys; latentc_runtime.load('bundle').sample([1]); print('latentc' in sys.modules)"
    line = [sys.executable, "-P", "-c", code]
    done = subprocess.run(line, cwd=tmp_path / "work", env=alone, capture_output=True, text=True, timeout=120)
    assert done.stdout.split()[-1] == "False", done.stderr


@pytest.mark.parametrize("component", KINDS)
def test_what_is_written_is_sound(component: str, tmp_path: Path) -> None:
    folder = api.init_component(component, tmp_path / "mypkg")
    for style in (["check", "--select", "E,F,I,B,UP,SIM,C4"], ["format", "--check"]):
        line = [sys.executable, "-m", "ruff", *style, "--isolated", "--line-length", "120", "."]
        done = subprocess.run(line, cwd=folder, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout
    api.use_components(folder / "mypkg")
    assert api.check(f"my_{component}").name == f"my_{component}"
    assert api.verify_training(f"my_{component}", budget=20).ok


def test_the_sampler_agrees_with_its_engine(tmp_path: Path) -> None:
    api.use_components(api.init_component("sampler", tmp_path / "mypkg") / "mypkg")
    small, weights = tmp_path / "small.yaml", tmp_path / "weights.safetensors"
    changes = "sampler: {steps: 2}\nbackbone: {width: 16, depth: 1}"
    small.write_text(f"latentc: 1\nname: small\nextends: my_sampler\n{changes}\n")
    write_random_weights(small, weights, 0.1)
    api.compile(small, weights, tmp_path / "bundle")
    assert api.verify(tmp_path / "bundle", budget=20).ok


def test_what_init_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    for output, code in (("my-pkg", "E0902"), ("yaml", "E0902"), ("class", "E0902"), (".", "E0412")):
        with pytest.raises(DiagnosticError, match=code if output != "." else "E0"):
            api.init_component("network", output)
    assert list(tmp_path.iterdir()) == []
    assert run(["init", "--component", "norm"]) == 1 and "E0701" in capsys.readouterr().err
    assert run(["init", "--component", "block"]) == 0 and (tmp_path / "mypkg/pyproject.toml").is_file()
    assert run(["init", "--component", "block"]) == 1 and "exists already" in capsys.readouterr().err
