"""A discriminator that starts late and is trained in some steps only, and a run resumed before and after its start."""

from __future__ import annotations

import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from forked import python
from safetensors.torch import load_file

from latentc.emit import project_from_lowered
from latentc.lower import lower
from latentc.spec import load_spec

pytestmark = pytest.mark.slow

SPEC = """
latentc: 1
name: late
data: {kind: npz, path: train.npz, shape: [3, 8, 8]}
networks:
  main:
    kind: autoencoder
    width: 8
    multipliers: [1, 2]
    blocks: 1
    groups: 4
    bottleneck: {kind: codebook, size: 8, channels: 4}
  discriminator: {kind: patch_discriminator, width: 8, depth: 1}
objective: {kind: adversarial_autoencoding, adaptive: false, start: 3, every: 2, terms: [lecam]}
sampler: {kind: autoencode}
train: {steps: 6, batch_size: 4, optimizer: {kind: adam, lr: 0.01}, checkpoint_every: 1, log_every: 1, workers: 0}
"""
KEPT = ["--keep", "9", "--parallel", "none", "--sample_every", "null"]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("late")
    (folder / "spec.yaml").write_text(SPEC)
    spec = load_spec(str(folder / "spec.yaml"))
    project_from_lowered(lower(spec), spec, folder / "project")
    x = np.random.default_rng(0).uniform(-1, 1, (16, 3, 8, 8))
    np.savez(folder / "train.npz", x=np.float32(x))
    said = python(folder / "project", "train.py", *KEPT)
    assert not said.returncode, said.stderr
    lines = {line.split("/")[0]: line for line in said.stdout.splitlines() if line.startswith("step ")}
    assert "discriminator/loss" not in lines["step 3"] and "discriminator/loss" in lines["step 5"]
    return folder / "project"


def weights(run: Path, step: int) -> dict[str, torch.Tensor]:
    return load_file(run / f"checkpoints/step-{step:08d}/networks.safetensors")


def test_it_moves_in_its_steps_alone(project: Path) -> None:
    """Steps are counted from 0: of those from 3 on, 4 divides by 2."""
    made = [weights(project / "runs/train", step) for step in range(1, 7)]
    moved = [
        step
        for step, (before, after) in enumerate(pairwise(made), start=1)
        if not torch.equal(before["discriminator.convs.0.weight"], after["discriminator.convs.0.weight"])
    ]
    assert moved == [4]
    assert not torch.equal(made[0]["main.decoder.conv_out.weight"], made[1]["main.decoder.conv_out.weight"])


@pytest.mark.parametrize("last", [2])
def test_a_resumed_run_ends_in_the_same_bits(project: Path, last: int) -> None:
    out = project / f"runs/from{last}"
    shutil.copytree(project / "runs/train", out)
    for step in range(last + 1, 7):
        shutil.rmtree(out / f"checkpoints/step-{step:08d}")
    said = python(project, "train.py", *KEPT, "--out", f"runs/from{last}", "--resume", "true")
    assert not said.returncode, said.stderr
    one, other = weights(project / "runs/train", 6), weights(out, 6)
    assert all(torch.equal(one[name], other[name]) for name in one)
