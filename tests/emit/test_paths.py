"""Paths mean the same wherever a command runs: those of a spec from its folder, those of a project from its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from forked import python, run_training
from test_train import SHORT, TINY

from latentc import api
from latentc.api.training import from_here
from latentc.diagnostics import DiagnosticError
from latentc.spec import load_spec, resolved_yaml, spec_from_text

SPEC = """
latentc: 1
name: own
extends: digits_dit
data: {kind: npz, path: images/train.npz, classes: 10, shape: [1, 8, 8]}
train: {evaluate_features: inception.pt}
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A spec beside its data, in a folder that is not the current one."""
    folder = tmp_path / "own"
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    x, y = rng.uniform(-1, 1, (64, 1, 8, 8)).astype(np.float32), rng.integers(0, 10, 64)
    np.savez(folder / "images/train.npz", x=x, y=y)
    (folder / "own.yaml").write_text(SPEC)
    return folder


def test_paths_of_a_spec_start_at_its_file(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = str(own / "images/train.npz")
    for source, here in ((own / "own.yaml", Path.cwd()), ("own.yaml", own), ("../own.yaml", own / "images")):
        monkeypatch.chdir(here)
        spec = load_spec(source)
        assert (spec.data.path, spec.train.evaluate_features) == (data, str(own / "inception.pt"))  # type: ignore[attr-defined]
        assert spec_from_text(resolved_yaml(spec)) == spec
    (own.parent / "more.yaml").write_text("latentc: 1\nname: more\nextends: own/own.yaml\ntrain: {steps: 300}\n")
    assert load_spec(own.parent / "more.yaml").data.path == data  # type: ignore[attr-defined]
    # Otherwise they start at the current folder, where a shipped spec's data need not be yet.
    monkeypatch.chdir(own)
    assert load_spec("own.yaml", overrides=["data.path=images/train.npz"]).data.path == data  # type: ignore[attr-defined]
    assert load_spec("dit").data.path == "data/imagenet/train"  # type: ignore[attr-defined]


def test_paths_of_every_kind(tmp_path: Path) -> None:
    text = "latentc: 1\nname: guided\nextends: digits_guided\nnetworks: {teacher: {pretrained: teacher.safetensors}}\n"
    (tmp_path / "guided.yaml").write_text(text)
    spec = load_spec(tmp_path / "guided.yaml")
    assert spec.networks["teacher"].pretrained == str(tmp_path / "teacher.safetensors")  # type: ignore[attr-defined]
    with pytest.raises(DiagnosticError, match=str(tmp_path / "teacher.safetensors")):
        api.train(tmp_path / "guided.yaml", tmp_path / "project")


@pytest.mark.parametrize(
    "setting",
    [
        *("config", "data.path", "data.captions", "held_out.path", "data.fields.text.tokenizer"),
        *("roles.teacher.pretrained", "neighbours.query.database", "evaluate_features", "train.evaluate_features"),
    ],
)
def test_flags_that_name_files_start_at_the_current_folder(
    setting: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("here").touch()
    for name in (f"--{setting}", f"--{setting.replace('_', '-')}"):
        assert from_here([name, "here", "--steps", "2"]) == [name, str(tmp_path / "here"), "--steps", "2"]
        assert from_here([f"{name}=here"]) == [f"{name}={tmp_path / 'here'}"]
        assert from_here([name, "elsewhere"]) == [name, "elsewhere"]
    assert from_here(["--out", "here"]) == ["--out", "here"]


@pytest.mark.slow
def test_a_run_resumes_from_anywhere(own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere, project = tmp_path / "elsewhere", tmp_path / "projects/own"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    monkeypatch.setattr("latentc.api.training.run_training", run_training)
    flags = [*SHORT, "--workers", "0", "--evaluate_features", "null"]
    api.train(own / "own.yaml", project, [*flags, "--steps", "2"], overrides=TINY["digits_dit"])
    assert (project / "runs/train/weights.safetensors").is_file()
    for steps, folder, script in ((3, project, "train.py"), (4, tmp_path, "projects/own/train.py")):
        done = python(folder, script, *flags, "--steps", str(steps), "--resume", "true")
        assert done.returncode == 0, done.stderr
        assert f"step-{steps - 1 if steps == 3 else 3:08d}" in done.stdout
    api.train(project, arguments=[*flags, "--steps", "5", "--resume", "true"])
    assert (project / "runs/train/checkpoints/step-00000005").is_dir()
    # The settings of the run name the same files, and can be used from any folder.
    settings = yaml.safe_load((project / "runs/train/config.yaml").read_text())
    assert settings["data"]["path"] == str(own / "images/train.npz")
    assert settings["train"]["out"] == str(project / "runs/train")
    config = ["--config", str(project / "runs/train/config.yaml")]
    done = python(own, str(project / "train.py"), *config, "--steps", "6", "--resume", "true")
    assert done.returncode == 0, done.stderr
    assert (project / "runs/train/checkpoints/step-00000006").is_dir()
    # Flags start at the folder where they are given.
    np.savez(elsewhere / "other.npz", **np.load(own / "images/train.npz"))
    other = ["--steps", "1", "--data.path", "other.npz"]
    done = python(elsewhere, str(project / "train.py"), *flags, *other, "--out", "o")
    assert done.returncode == 0, done.stderr
    assert (elsewhere / "o/weights.safetensors").is_file()
    api.train(project, arguments=[*flags, *other, "--out", "runs/o"])
    settings = yaml.safe_load((project / "runs/o/config.yaml").read_text())
    assert settings["data"]["path"] == str(elsewhere / "other.npz")
