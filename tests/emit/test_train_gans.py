"""Adversarial losses of several terms train in emitted projects: by two processes as by one, and they learn."""

from __future__ import annotations

from collections.abc import Sequence
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

BARE = ["networks.main.width=8", "networks.discriminator.width=8", "networks.discriminator.projection=false"]
SYSTEMS = {
    # Heads that no term reads get no gradient.
    "adc_gan": [
        "objective.terms=[hinge, discriminative_classifier, lecam]",
        "networks.discriminator.heads=[discriminative, classes]",
        "networks.main.attention=[8]",  # weighted by a scalar, which FSDP does not shard
    ],
    # The loss of the discriminator is differentiated twice.
    "wgan_gp": [
        "objective.terms=[wasserstein, gradient_penalty]",
        "networks.main.spectral_norm=false",
        "networks.discriminator.spectral_norm=false",
        "objective.discriminator_steps=1",
    ],
}

# Adam makes full steps of gradients that are rounding errors, as those of biases before batch norms.
SGD = ["train.optimizer={kind: sgd, lr: 0.1, orthogonal: 0.01}", "train.optimizers.discriminator={kind: sgd, lr: 0.1}"]
GRIDLESS = ["--sample_every", "null"]


def trained(
    system: str, folder: Path, processes: int, *flags: str, overrides: Sequence[str] = ()
) -> tuple[dict[str, torch.Tensor], str]:
    """The weights and the log of a run."""
    spec = load_spec("digits_biggan", overrides=[*BARE, *SYSTEMS[system], *overrides])
    project_from_lowered(lower(spec), spec, folder)
    log = run(folder, "train.py", *flags, *GRIDLESS, "--out", "run", ranks=processes)
    return load_file(folder / "run" / "weights_raw.safetensors"), log


def run(folder: Path, *command: str, ranks: int = 1) -> str:
    """Output of a Python command in a project."""
    done = python(folder, *command, ranks=ranks)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("system", SYSTEMS)
def test_ddp_and_fsdp_make_the_same_step(system: str, tmp_path: Path) -> None:
    flags = ["--steps", "1", "--accumulate", "2", "--batch_size", "16", "--schedule.warmup", "0"]
    ddp, _ = trained(system, tmp_path / "ddp", 2, *flags, "--parallel", "ddp", overrides=SGD)
    fsdp, _ = trained(system, tmp_path / "fsdp", 2, *flags, "--parallel", "fsdp", overrides=SGD)
    assert ddp.keys() == fsdp.keys()
    for name, value in ddp.items():
        assert torch.allclose(value, fsdp[name], rtol=0, atol=1e-5), name


def test_the_discriminative_classifier_learns(tmp_path: Path) -> None:
    """Its cross-entropies start at 2 log 20 = 6.0."""
    flags = ["--steps", "60", "--batch_size", "32", "--log_every", "60", "--schedule.warmup", "0"]
    _, log = trained("adc_gan", tmp_path, 1, *flags)
    name = "discriminator/discriminative_classifier "
    assert float(log.split(name)[1].split(",")[0]) < 5.6


def test_the_conditional_wgan_gp_learns_classes(tmp_path: Path) -> None:
    """Classes are images that are light, light on top, light on the left, or dark.

    After 80 steps three quarters of the samples look like the requested class. If the generator got other classes than
    its loss, it would be a quarter; with the wrong sign, none.
    """
    classes, rng = np.full((4, 1, 8, 8), -0.8), np.random.default_rng(0)
    classes[0] = classes[1, :, :4] = classes[2, :, :, :4] = 0.8
    y = np.arange(400) % 4
    x = np.clip(classes[y] + 0.1 * rng.standard_normal((400, 1, 8, 8)), -1, 1)
    np.savez(tmp_path / "train.npz", x=np.float32(x), y=y)
    overrides = ["networks.main.width=8", "networks.discriminator.width=8", "train.optimizer.lr=0.01"]
    overrides.append(f"data={{kind: npz, path: {tmp_path / 'train.npz'}, shape: [1, 8, 8], classes: 4}}")
    spec, folder = load_spec("digits_wgan_gp", overrides=overrides), tmp_path / "project"
    project_from_lowered(lower(spec), spec, folder)
    run(folder, "train.py", "--steps", "80", "--batch_size", "16", "--workers", "0", *GRIDLESS)
    weights = ["--weights", "runs/train/weights.safetensors"]
    run(folder, "sample.py", *weights, "--class", "0-3", "--per-class", "40", "--raw", "samples.npz")
    samples = np.load(folder / "samples.npz")["samples"]
    nearest = np.square(samples[:, None] - classes).sum((2, 3, 4)).argmin(1)
    assert (nearest == np.repeat(np.arange(4), 40)).mean() > 0.6
