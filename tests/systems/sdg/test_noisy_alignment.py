"""SDG's fine-tuning of an encoder on noisy images, against the formula of the authors' script."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from forked import python
from random_weights import random_weights
from safetensors.numpy import load_file, save_file

from latentc import api
from latentc.checkpoint import network_params
from latentc.diagnostics import DiagnosticError
from latentc.ir.interpret import Interpreter
from latentc.lower import lower
from latentc.spec import load_spec

SIZES = [
    f"networks.{network}.{size}"
    for network in ("main", "teacher")
    for size in ("layers=[1, 1, 1, 1]", "width=2", "heads=2", "features=5")
]
SIZES += ["data.shape=[3, 32, 32]", "networks.teacher.image=64", "networks.main.time={frequencies: 8, width: 6}"]


def test_images_are_found_among_those_of_the_batch() -> None:
    spec = load_spec("clip_resnet_noisy", overrides=[*SIZES, "objective.range=[0.2, 1]", "objective.scale=20"])
    low, rng = lower(spec), np.random.default_rng(0)
    weights = {
        f"{name}.{path}": np.abs(a) if path.endswith("running_var") else a
        for name, net in low.networks.items()
        for path, a in random_weights(network_params(low, net), rng, 0.3).items()
    }
    oracle = Interpreter(low.module, weights)
    x, noise, step = (
        rng.uniform(-1, 1, (4, 3, 32, 32)),
        rng.standard_normal((4, 3, 32, 32)),
        np.array([0, 50, 400, 799]),
    )
    betas = np.linspace(1e-4, 0.02, 1000)
    kept = np.cumprod(1 - betas)[step + 200][:, None, None, None]
    x_t = np.sqrt(kept) * x + np.sqrt(1 - kept) * noise
    ours = oracle.run("main.see", x_t, step + 200.0, prefix="main")[0]
    wanted = oracle.run("teacher.see", x, prefix="teacher")[0]
    a, b = (F.normalize(torch.tensor(np.asarray(v)), dim=-1) for v in (ours, wanted))
    logits, truth = 20 * a @ b.T, torch.arange(4)
    losses = [F.cross_entropy(v, truth, reduction="none") for v in (logits, logits.T)]
    found = oracle.run("loss.terms", x, step, noise)
    assert np.allclose(found[0], (losses[0] + losses[1]).numpy(), rtol=1e-5)
    assert np.allclose(found[1], (a * b).sum(1).numpy(), rtol=1e-5)


def test_encoders_of_other_features_are_refused() -> None:
    with pytest.raises(DiagnosticError, match="`main` returns 6 features and `teacher` 5"):
        load_spec("clip_resnet_noisy", overrides=[*SIZES, "networks.main.features=6"])


def test_images_that_are_not_whole_positions_are_refused() -> None:
    with pytest.raises(DiagnosticError, match=r"tile a side of 40(.|\n)*use a multiple of 32"):
        load_spec("clip_resnet_noisy", overrides=[*SIZES, "networks.teacher.image=40"])


def test_a_teacher_that_sees_positions_is_refused() -> None:
    block = "{mixer: {kind: attention, heads: 2}, feed_forward: {kind: gelu_mlp}, norm: {kind: layer_norm}, "
    encoder = "{kind: patch_encoder, width: 8, depth: 1, patch: 8, positions: {kind: learned}, head: {features: 5}, "
    encoder += f"pretrained: t.safetensors, block: {block}condition: {{kind: in_context}}}}}}"
    ours = [size for size in SIZES if "teacher" not in size]
    with pytest.raises(DiagnosticError, match=r"`teacher` returns features at positions, \[5, 16\] per sample"):
        load_spec("clip_resnet_noisy", overrides=[*ours, f"networks.teacher={encoder}"])


def test_training_starts_from_the_weights_of_the_teacher(tmp_path: Path) -> None:
    """All but those of the time and the positions; the file has no counts of batches."""
    sizes = [*SIZES, "data={kind: npz, path: x.npz, shape: [3, 32, 32]}", "train.steps=1", "train.batch_size=4"]
    sizes += ["train.workers=0", "train.precision=fp32", "train.optimizer={kind: sgd, lr: 1e-8}"]
    sizes += ["networks.teacher.pretrained=teacher.safetensors", "train.sample_every=null"]
    api.emit("clip_resnet_noisy", tmp_path / "project", None, sizes)
    low, rng = lower(load_spec("clip_resnet_noisy", overrides=sizes)), np.random.default_rng(0)
    own = random_weights(network_params(low, low.networks["teacher"]), rng, 0.3)
    own = {name: np.float32(np.abs(a) if name.endswith("running_var") else a) for name, a in own.items()}
    save_file(own, tmp_path / "project" / "teacher.safetensors")
    np.savez(tmp_path / "project" / "x.npz", x=rng.uniform(-1, 1, (8, 3, 32, 32)).astype(np.float32))
    done = python(tmp_path / "project", "train.py")
    assert done.returncode == 0, done.stderr
    trained = load_file(tmp_path / "project" / "runs/train/weights_raw.safetensors")
    fresh = ("time.", "film.", "attn_pool.positions")
    copied = [name for name in own if not name.startswith(fresh) and "running" not in name]
    assert len(copied) > 40 and all(np.allclose(trained[f"main.{name}"], own[name], atol=1e-4) for name in copied)
