"""MCMI: centroids that training moves, and the loss at centroids that are not recorded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from emitted import emitted
from parity_data import load

from latentc import api
from latentc.diagnostics import DiagnosticError
from latentc.lower import lower
from latentc.spec import load_spec

SIZES = [
    "data={kind: npz, path: x.npz, classes: 3, fields: {x: {shape: [4]}}}",
    "networks.main={kind: mlp_classifier, widths: []}",
    "networks.centroids.decay=0.75",
    "objective.weight=0.4",
]


def test_training_moves_centroids_and_inference_does_not(tmp_path: Path) -> None:
    """A centroid is that before the batch; of a class that the batch lacks it stays."""
    spec: Any = load_spec("digits_mcmi", None, SIZES)
    rng = np.random.default_rng(0)
    with emitted(lower(spec), spec, tmp_path / "project") as project:
        network, sums = project.model.NETWORKS["centroids"](), np.ones((3, 3))
        for turn in range(3):
            p = torch.softmax(torch.from_numpy(rng.standard_normal((5, 3)).astype(np.float32)), 1)
            y = torch.tensor([0, 1, 1, 0, turn])
            wanted = sums / sums.sum(1, keepdims=True)
            for training in (False, True):
                found = network.train(training)(p, y)
                assert np.allclose(found.numpy(), wanted[y], atol=1e-6)
            sums = 0.75 * sums + 0.25 * np.eye(3)[y].T @ p.numpy()
            assert np.allclose(network.sums.numpy(), sums, atol=1e-6)
        assert np.ptp(wanted[0]) > 0.01 and np.allclose(wanted[2], 1 / 3)  # no sample of the last class came before


def test_the_centroids_of_an_epoch_are_the_authors(tmp_path: Path) -> None:
    """Without a memory of earlier steps, the centroids after one batch are those of its samples."""
    numbers, sizes = load("mcmi"), [SIZES[0].replace("3", "5").replace("[4]", "[12]"), SIZES[1]]
    spec: Any = load_spec("digits_mcmi", None, [*sizes, "networks.centroids.decay=0"])
    x, y = numbers.inputs["data"], torch.from_numpy(numbers.inputs["data_y"])
    logits = torch.from_numpy(x @ numbers.weights["net.weight"].T + numbers.weights["net.bias"])
    with emitted(lower(spec), spec, tmp_path / "project") as project:
        network = project.model.NETWORKS["centroids"]().train()
        network(logits.softmax(1), y)
        found = network.eval()(logits.softmax(1)[:5], torch.arange(5))
    assert np.allclose(found.numpy(), numbers.outputs["out.centroids"], atol=1e-6) and np.ptp(found.numpy()) > 0.1


@pytest.mark.parametrize("backend", ["oracle", "torch"])
def test_the_loss_is_lower_where_outputs_differ_from_their_centroids(backend: Any) -> None:
    rng = np.random.default_rng(1)
    own = {"main.output.weight": rng.standard_normal((3, 4)), "main.output.bias": np.zeros(3)}
    own |= {"centroids.sums": rng.random((3, 3)) + np.eye(3)}
    own = {name: array.astype(np.float32) for name, array in own.items()}
    x, y = rng.standard_normal((6, 4)).astype(np.float32), np.array([0, 1, 2, 2, 1, 0])
    logits = torch.from_numpy(x) @ torch.from_numpy(own["main.output.weight"]).T
    centroids = torch.from_numpy(own["centroids.sums"])
    centroids = (centroids / centroids.sum(1, keepdim=True))[y]
    information = F.kl_div(centroids.log(), logits.softmax(1), reduction="batchmean")
    found = api.loss("digits_mcmi", own, {"x": x, "y": y}, backend, overrides=SIZES)
    assert np.isclose(found["information"], float(information), rtol=1e-5) and information > 0.1
    wanted = F.cross_entropy(logits, torch.from_numpy(y)) - 0.4 * information
    assert np.isclose(found["loss"], float(wanted), rtol=1e-5)


def test_it_needs_centroids() -> None:
    with pytest.raises(DiagnosticError, match="averages class probabilities over the samples of a class"):
        load_spec("digits_mcmi", None, ["networks.centroids={kind: like}"])
