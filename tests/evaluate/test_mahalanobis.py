"""The Mahalanobis detector: the authors' means, precision and scores, and what its figures say."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from parity_data import error, load

from latentc.evaluate.metrics import figures_of
from latentc.evaluate.metrics.contract import Compared, Reference, moments
from latentc.evaluate.metrics.mahalanobis import auroc, confidences, gaussians

NAMES = ("mahalanobis", "mahalanobis_auroc")


@pytest.mark.parametrize("layer", [0, 1])
def test_the_authors_scores_of_given_features(layer: int) -> None:
    """Recorded with the mean over space of a small network's two feature maps, without perturbed inputs."""
    numbers = load("mahalanobis")
    own = {name: torch.from_numpy(weight).double() for name, weight in numbers.weights.items()}

    def features(images: np.ndarray) -> np.ndarray:
        h = F.conv2d(torch.from_numpy(images).double(), own["c1.weight"], own["c1.bias"], padding=1).relu()
        if layer:
            h = F.conv2d(h, own["c2.weight"], own["c2.bias"], padding=1, stride=2).relu()
        return h.mean((2, 3)).numpy()

    classes, means, precision = gaussians(features(numbers.inputs["train"]), numbers.inputs["label"])
    assert classes.tolist() == [0, 1, 2, 3]
    assert error(means, numbers.outputs[f"out.mean.{layer}"]) < 1e-6
    assert error(precision, numbers.outputs[f"out.precision.{layer}"]) < 1e-5
    scores = confidences(features(numbers.inputs["test"]), means, precision).max(axis=1)
    assert error(scores, numbers.outputs[f"out.score_m0.{layer}"]) < 1e-5


def test_samples_far_from_their_class_are_told_from_real_ones() -> None:
    rng, centres = np.random.default_rng(0), np.array([[4.0, 0, 0], [0, 4.0, 0]])
    spread = np.array([[1.0, 0.5, 0], [0, 0.2, 0], [0, 0, 3.0]])

    def drawn(count: int, away: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
        y = rng.integers(0, 2, count)
        return (centres[y] + rng.standard_normal((count, 3)) @ spread + away).astype(np.float32), y

    x, y = drawn(4000)
    reference = Reference("made up", moments(x), x, y)
    for away, ratio, told in ((0.0, 1.0, 0.5), (5.0, 7.0, 1.0)):
        samples, labels = drawn(1000, away)
        found, missing = figures_of(Compared(samples, reference, labels=labels), NAMES)
        assert not missing
        assert found["mahalanobis"] == pytest.approx(ratio, rel=0.1 if away == 0 else 1.0)
        assert found["mahalanobis_auroc"] == pytest.approx(told, abs=0.03)
        other, _ = figures_of(Compared(samples, reference, labels=1 - labels), NAMES)
        assert other["mahalanobis"] > 2 * found["mahalanobis"] or away, "of the wrong class"
        assert other["mahalanobis_auroc"] == found["mahalanobis_auroc"], "whatever the class asked for"
    bare = Reference("statistics", moments(x))
    assert set(figures_of(Compared(x, bare), NAMES)[1]) == set(NAMES)


def test_the_area_counts_pairs() -> None:
    rng = np.random.default_rng(0)
    inside, outside = rng.integers(0, 6, 40).astype(float), rng.integers(0, 5, 30).astype(float)
    pairs = (inside[:, None] > outside) + 0.5 * (inside[:, None] == outside)
    assert auroc(inside, outside) == pytest.approx(pairs.mean())
