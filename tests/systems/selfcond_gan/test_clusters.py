"""Clusters that are labels: those of the authors' code, kept by checkpoints, the same on every process."""

from __future__ import annotations

import importlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from emitted import emitted
from forked import python
from parity_data import error, load
from safetensors.torch import load_file

from latentc import api
from latentc.diagnostics import DiagnosticError
from latentc.emit import project_from_lowered
from latentc.lower import lower
from latentc.spec import load_spec

TINY = ["data={kind: npz, path: data.npz, shape: [1, 8, 8], classes: 3}", "networks.main.width=2"]
TINY += ["networks.discriminator.width=2", "networks.main.latent_dim=4", "networks.main.embedding=3"]
TINY += ["networks.main.channel_multipliers=[2, 1]", "networks.discriminator.channel_multipliers=[1, 2]"]
TINY += ["objective.every=2", "train.batch_size=8", "train.steps=5", "train.checkpoint_every=2", "train.keep=9"]
TINY += ["train.sample_every=null", "train.workers=0", "train.log=[]", "train.parallel=ddp"]
OTHER = "{kind: resnet_discriminator, width: 8, channel_multipliers: [1], downsample_levels: 0}"


def project(folder: Path, *changes: str) -> Path:
    """A tiny project, and data without labels: three kinds of images, 21 in all."""
    spec = load_spec("digits_selfcond", None, [*TINY, *changes])
    project_from_lowered(lower(spec), spec, folder)
    rng = np.random.default_rng(0)
    kinds = rng.standard_normal((3, 1, 8, 8))
    np.savez(folder / "data.npz", x=(kinds[np.arange(21) % 3] + rng.normal(0, 0.3, (21, 1, 8, 8))).astype(np.float32))
    return folder


def run(folder: Path, *flags: str, ranks: int = 1) -> str:
    done = python(folder, "train.py", *flags, ranks=ranks)
    assert not done.returncode, done.stderr
    return done.stdout + done.stderr


def clusters(folder: Path, out: str) -> dict[str, np.ndarray]:
    with np.load(folder / out / "clusters.npz") as file:
        return {name: file[name] for name in file.files}


def test_clusters_are_those_of_the_authors_code(tmp_path: Path) -> None:
    numbers = load("selfcond_gan.recluster")
    features, old = numbers.inputs["features"], numbers.inputs["old_labels"]
    spec = load_spec("digits_selfcond", None, TINY)
    with emitted(lower(spec), spec, tmp_path / "project"):
        module = importlib.import_module("latentc_support.clusters")
        assert error(module.means_of(features, old, 5, 0), numbers.outputs["out.initial_means"]) < 1e-6
        labels, means = module.clustered(features, 5, old, 0)
        np.testing.assert_array_equal(labels, numbers.outputs["out.labels"])
        assert error(means[numbers.outputs["out.mapping"]], numbers.outputs["out.centers"]) < 1e-5
        held = module.Clusters.__new__(module.Clusters)
        torch.nn.Module.__init__(held)
        held.means = torch.from_numpy(means)
        np.testing.assert_array_equal(held.nearest(numbers.inputs["batch"]), numbers.outputs["out.batch_labels"])


def test_an_empty_cluster_starts_from_a_sample(tmp_path: Path) -> None:
    spec = load_spec("digits_selfcond", None, TINY)
    features = np.random.default_rng(0).standard_normal((6, 2)).astype(np.float32)
    with emitted(lower(spec), spec, tmp_path / "project"):
        means = importlib.import_module("latentc_support.clusters").means_of(features, np.zeros(6, int), 2, 0)
    assert np.allclose(means[0], features.mean(0)) and (means[1] == features).all(1).any()


def test_labels_are_found_again_and_no_label_is_read(tmp_path: Path) -> None:
    folder = project(tmp_path / "project")
    said = run(folder, "--out", "whole")
    assert [f"step {step}: 3 clusters of" in said for step in range(5)] == [True, False, True, False, True]
    found = clusters(folder, "whole")
    assert found["labels"].shape == (21,) and found["means"].shape == (3, 64)
    own = [set(found["labels"][kind::3]) for kind in range(3)]
    assert all(len(one) == 1 for one in own) and len(set.union(*own)) == 3, "kinds that differ are clusters"
    state = load_file(folder / "whole/checkpoints/step-00000005/others.safetensors")
    assert torch.equal(state["clusters.labels"], torch.from_numpy(found["labels"]))
    assert torch.equal(state["clusters.means"], torch.from_numpy(found["means"]))


def test_a_resumed_run_has_the_same_labels_and_weights(tmp_path: Path) -> None:
    """Also from a checkpoint between clusterings, whose labels no later one would give."""
    folder = project(tmp_path / "project", "objective.every=3", "objective.clustered=9")
    for out in ("whole", "parts"):
        run(folder, "--out", out)
    for step in (2, 4):
        for later in (4, 5):
            if later > step:
                shutil.rmtree(folder / f"parts/checkpoints/step-{later:08d}", ignore_errors=True)
        assert "resumed" in run(folder, "--out", "parts", "--resume", "true")
        for file in ("weights_raw.safetensors", "checkpoints/step-00000005/others.safetensors"):
            one, two = load_file(folder / "whole" / file), load_file(folder / "parts" / file)
            assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one), file


NOTED = """
import os
from latentc_support.clusters import Clusters
find = Clusters.find
def noted(self, step, out):
    find(self, step, out)
    with open(f"labels-{os.environ['RANK']}.txt", "a") as file:
        print(step, self.labels.tolist(), file=file)
Clusters.find = noted
"""


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["ddp", "fsdp"])
def test_processes_agree(mode: str, tmp_path: Path) -> None:
    """Every process has the same clusters, the first of them those of a single process; later noise differs."""
    folder = project(tmp_path / "project", "objective.clustered=20")
    run(folder, "--out", "one", "--steps", "1")
    run(folder, "--out", "two", "--steps", "1", "--parallel", mode, ranks=2)
    one, two = clusters(folder, "one"), clusters(folder, "two")
    np.testing.assert_array_equal(one["labels"], two["labels"])
    np.testing.assert_allclose(one["means"], two["means"], rtol=1e-4, atol=1e-6)
    done = python(folder, "train.py", "--out", "two", "--parallel", mode, "--resume", "true", ranks=2, before=NOTED)
    assert not done.returncode and "resumed" in done.stdout, done.stderr
    first, second = ((folder / f"labels-{rank}.txt").read_text() for rank in range(2))
    assert first == second and [line.split()[0] for line in first.splitlines()] == ["2", "4"]


def test_more_clusters_than_samples_are_refused(tmp_path: Path) -> None:
    folder = project(tmp_path / "project", "data.classes=22")
    done = python(folder, "train.py")
    assert done.returncode == 1 and "21 samples cannot have 22 clusters" in done.stderr


def test_the_generators_loss_is_the_authors() -> None:
    """Of samples for the clusters of data; its gradients are not recorded."""
    numbers = load("selfcond_gan.loss")
    sizes = ["data.shape=[3, 32, 32]", "data.classes=5", "networks.main.width=2", "networks.discriminator.width=2"]
    sizes += ["networks.main.latent_dim=8", "networks.main.embedding=6", "objective.clustered=null"]
    spec = load_spec("selfcond_gan", None, sizes)
    updates = {update.name: update for update in lower(spec).updates}
    assert updates["generator"].batch == ("y",) and [draw.name for draw in updates["generator"].draws] == ["z"]
    weights: dict[str, dict[str, Any]] = {"main": {}, "discriminator": {}}
    for name, array in numbers.weights.items():
        player, _, path = name.partition(".")
        weights["main" if player == "G" else "discriminator"][path] = array
    given = {name: numbers.inputs[name] for name in ("y", "z")}
    found = api.loss("selfcond_gan", weights, given, overrides=sizes, names="official", update="generator")
    assert found["loss"] == pytest.approx(float(numbers.outputs["out.g_loss"]), rel=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["conditioning.class=null"], "one of them takes no class"),
        (["objective.clustered=9"], "9 samples cannot have 10 clusters"),
        (["objective.generator_batch=2"], "is no larger than its own size"),
        ([f"networks.discriminator={OTHER}"], "needs a network `discriminator` that gives the features"),
    ],
)
def test_refusals(changes: list[str], message: str) -> None:
    with pytest.raises(DiagnosticError, match=message):
        load_spec("digits_selfcond", None, changes)
