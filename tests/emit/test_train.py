"""Emitted projects train where latentc is not installed: one process, DDP, FSDP2; resumed runs are bit-equal."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from forked import Started, python
from PIL import Image
from safetensors.torch import load_file

from latentc.emit import project_from_lowered
from latentc.lower import lower
from latentc.spec import load_spec

pytestmark = pytest.mark.slow

# As on a machine without latentc.
ALONE = 'import sys; sys.modules["latentc"] = sys.modules["latentc_runtime"] = None'
TINY = {
    "digits_dit": ["backbone.width=16", "backbone.depth=2", "backbone.block.mixer.heads=2"],
    # Dropout draws from torch's own generator, whose state a checkpoint has to hold.
    "digits_llamagen": [
        "backbone.width=16",
        "backbone.depth=2",
        "backbone.block.mixer.heads=2",
        "backbone.dropout=0.2",
        "backbone.block.mixer.dropout=0.2",
    ],
    # Two players, running statistics, vectors of spectral norms.
    "digits_biggan": ["networks.main.width=8", "networks.discriminator.width=8"],
    # Blocks inside blocks; a gradient in the sampler.
    "digits_tarflow": ["backbone.width=16", "backbone.flows=2", "backbone.block.mixer.heads=2"],
}
SHORT = ["--batch_size", "16", "--log_every", "10", "--schedule.warmup", "2", "--sample_every", "null"]

GRIDS = ["--sample_every", "10000"]  # the default: here only at the end
DIVERGES = ["--optimizer.lr", "1e30", "--schedule.warmup", "0", "--steps", "8", "--checkpoint_every", "4"]


@pytest.fixture(scope="module", params=TINY)
def project(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project") / request.param
    spec = load_spec(request.param, overrides=[*TINY[request.param], "train.evaluate_every=10000"])
    project_from_lowered(lower(spec), spec, folder)
    return folder


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def run(project: Path, script: str, *flags: str) -> str:
    done = python(project, script, *flags, before=ALONE)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def two_processes(project: Path, *flags: str) -> str:
    done = python(project, "train.py", *flags, ranks=2)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def same(a: Path, b: Path) -> None:
    """Every tensor of both weights files has the same bits."""
    for name in ("weights.safetensors", "weights_raw.safetensors"):
        x, y = load_file(a / name), load_file(b / name)
        assert x.keys() == y.keys() and x
        for key in x:
            assert torch.equal(x[key], y[key]), key


def test_resume_after_sigkill_is_bit_equal(project: Path) -> None:
    steps = 20 if project.name == "digits_biggan" else 40  # those of others take less time
    flags = [*SHORT, "--steps", str(steps), "--checkpoint_every", str(steps // 4), "--accumulate", "2"]
    run(project, "train.py", *flags, "--out", "runs/whole")
    process = Started(project, "train.py", *flags, "--out", "runs/killed")
    first = project / f"runs/killed/checkpoints/step-{steps // 4:08d}"
    waited = time.monotonic()
    while not first.exists() and process.returncode is None and time.monotonic() - waited < 120:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.rest()
    assert first.exists() and not (project / "runs/killed/weights.safetensors").exists()
    assert "resumed" in run(project, "train.py", *flags, "--out", "runs/killed", "--resume", "true")
    same(project / "runs/whole", project / "runs/killed")


def test_sigterm_saves(project: Path) -> None:
    process = Started(project, "train.py", *SHORT, "--steps", "100000", "--out", "runs/term")
    while line := process.stdout.readline():
        if "step 10" in line:
            break
    process.send_signal(signal.SIGTERM)
    assert "saved" in process.rest() and process.returncode == 0
    assert len(list((project / "runs/term/checkpoints").glob("step-*"))) == 1


WORDS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
NAMES = ["zero, nought", *(f"digit {word}" for word in WORDS)]
JUDGED = ["--evaluate_every", "8", "--evaluate_samples", "16"]


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_processes_resume_bit_equal(project: Path, parallel: str) -> None:
    flags = [*SHORT, "--parallel", parallel, "--checkpoint_every", "4", "--steps", "8", "--sample_every", "8", *JUDGED]
    if project.name != "digits_biggan" and parallel == "fsdp":
        pytest.skip("sharded checkpoints of one network: tests/emit/test_sharded_checkpoints.py")
    if project.name not in ("digits_dit", "digits_biggan"):
        pytest.skip("other objectives resume by the same code: test_resume_after_sigkill_is_bit_equal")
    said = two_processes(project, *flags, "--out", f"runs/{parallel}")
    assert "step 8: fd_principal " in said and "recall" in said
    assert (project / f"runs/{parallel}/samples/00000008.png").is_file()
    shutil.copytree(project / f"runs/{parallel}", project / f"runs/{parallel}2")
    shutil.rmtree(project / f"runs/{parallel}2/checkpoints/step-00000008")
    two_processes(project, *flags, "--out", f"runs/{parallel}2", "--resume", "true")
    same(project / f"runs/{parallel}", project / f"runs/{parallel}2")


def test_samples_and_refusals(project: Path) -> None:
    named = [project / "latentc_support/class_names.txt", project / "runs/short/class_names.txt"]
    named[0].write_text("\n".join(NAMES) + "\n")
    run(project, "train.py", *SHORT, "--steps", "2", "--out", "runs/short", "--precision", "bf16", *GRIDS)
    assert named[1].read_text() == named[0].read_text()
    named[0].unlink()  # those beside the weights are found as well
    weights = ["--weights", "runs/short/weights.safetensors", "--class", "0-1", "--per-class", "2"]
    run(project, "sample.py", *weights, "-o", "grid.png", "--raw", "all.npz")
    # A sample depends on its own seed and class alone.
    run(project, "sample.py", *weights, "--batch", "3", "--raw", "parts.npz")
    whole, parts = (np.load(project / name)["samples"] for name in ("all.npz", "parts.npz"))
    assert np.allclose(whole, parts, atol=1e-5) and len(whole) == 4
    assert (project / "grid.png").read_bytes().startswith(b"\x89PNG")
    (preview,) = (project / "runs/short/samples").glob("*.png")
    with Image.open(preview) as grid:  # names left of the rows, pictures of 8 pixels enlarged to 48
        assert grid.height == 10 * 50 - 2 and 8 * 50 < grid.width < 8 * 50 + 90
    given = ["--class", "digit ONE,nought", "--per-class", "2", "--raw", "named.npz", "--labels", "-o", "labels.png"]
    run(project, "sample.py", *weights[:2], *given)
    assert np.load(project / "named.npz")["class"].tolist() == [1, 1, 0, 0]
    if project.name == "digits_biggan":
        refused(project, "sample.py", [*weights, "--guidance", "2"], "unrecognized arguments: --guidance")
        refused(project, "sample.py", [*weights, "--steps", "7"], "emit it again")
        refused(project, "sample.py", [*weights, "--truncation", "0"], "`truncation` 0 is out of range")
    if project.name != "digits_dit":
        return  # the other refusals are the same code
    for script, flags, said in (
        ("train.py", ["--out", "runs/short"], "holds checkpoints"),
        ("train.py", ["--stepz", "3"], "no such setting"),
        ("train.py", [*DIVERGES, "--out", "runs/nan"], "the loss is nan at step 4"),
        ("train.py", ["--batch_size", "15", "--accumulate", "2"], "is not divisible"),
        ("train.py", ["--steps", "ten"], "an integer of at least 1"),
        ("train.py", ["--steps", "{"], "not a YAML value"),
        ("train.py", ["--parallel", "DDP"], "one of none, ddp, fsdp"),  # else each process would train alone
        ("train.py", ["--precision", "bf61"], "one of fp32, bf16"),
        ("train.py", ["--optimizer", "{kind: adamw}"], "optimizer.lr is missing"),
        ("train.py", ["--config"], "expected one argument"),
        ("train.py", ["--config", "nowhere.yaml"], "there is no file"),
        ("sample.py", [*weights, "--steps", "5000"], "there are no 5000 different timesteps of"),
        ("sample.py", [*weights, "--class", "10"], "class 10 is out of range; classes are 0 to 9"),
        ("sample.py", [*weights, "--class", "9-0"], "the range `9-0` is empty"),
        ("sample.py", [*weights, "--class", "nout"], "no class `nout`; did you mean `zero` (0)?"),
        ("sample.py", [*weights, "--per-class", "0"], "invalid"),
        ("sample.py", [*weights, "--seed", "-1"], "invalid"),
        ("sample.py", ["--weights", "nowhere.safetensors"], "there is no file"),
        ("sample.py", [*weights, "--setting", "truncation=1"], "no setting `truncation`"),
        ("sample.py", [*weights, "--truncation", "1"], "unrecognized arguments: --truncation"),
        ("sample.py", [*weights, "--guidance", "1", "--setting", "guidance=2"], "given twice"),
        ("sample.py", [*weights, "--guidance", "1e39"], "`guidance` 1e+39 is out of range"),
        ("sample.py", [*weights, "--seed", str(1 << 64)], "seeds must be in [0, 2^64)"),
    ):
        refused(project, script, flags, said)
    assert not (project / "runs/nan/checkpoints").exists()


def refused(project: Path, script: str, flags: list[str], said: str) -> None:
    """Runs a script of a project that must say so and stop."""
    done = python(project, script, *flags)
    assert done.returncode in (1, 2) and said in done.stderr and "Traceback" not in done.stderr
