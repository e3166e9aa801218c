"""The measures of the digits demo: what they must say of real, copied, mislabelled and ruined images."""

from __future__ import annotations

import importlib.util
import itertools
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

FILE = Path(__file__).parents[1] / "examples" / "digits" / "metrics.py"
pytest.importorskip("sklearn")


def _metrics() -> ModuleType:
    spec = importlib.util.spec_from_file_location("digit_metrics", FILE)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


metrics: Any = _metrics()


@pytest.fixture(scope="module")
def judge() -> Any:
    return metrics.Judge.fit()


def test_split_is_fixed_and_disjoint() -> None:
    from sklearn.datasets import load_digits

    train, heldout = metrics.split()
    assert (len(train.images), len(heldout.images)) == (898, 899)
    assert train.images.dtype == np.uint8 and train.images.max() == metrics.LEVELS
    # What the docstring promises, so that emitted training code can repeat it.
    order = np.random.RandomState(0).permutation(1797)
    assert order[:5].tolist() == [1081, 1707, 927, 713, 262]
    digits = load_digits()
    np.testing.assert_array_equal(train.images, digits.images[order[:898]])
    np.testing.assert_array_equal(heldout.labels, digits.target[order[898:]])
    assert min(np.bincount(heldout.labels)) >= 70  # no class is missing or rare in the half compared with


def test_classifier_knows_unseen_digits(judge: Any) -> None:
    assert judge.heldout_accuracy >= 0.975


def test_fit_is_deterministic(judge: Any) -> None:
    one, other = (metrics.Judge.fit(progress=lambda epochs: itertools.islice(epochs, 5)) for _ in range(2))
    np.testing.assert_array_equal(one.features(judge.heldout.images), other.features(judge.heldout.images))
    assert not np.array_equal(one.features(judge.heldout.images), judge.features(judge.heldout.images))


def test_progress_sees_every_epoch() -> None:
    seen: list[int] = []

    def watch(epochs: Any) -> Any:
        for epoch in epochs:
            seen.append(epoch)
            if epoch == 1:
                return
            yield epoch

    metrics.Judge.fit(progress=watch)
    assert seen == [0, 1]


def test_frechet_distance_of_known_gaussians() -> None:
    """Diagonal covariances have the closed form Σ (μa − μb)² + (σa − σb)²."""
    white = np.random.default_rng(0).normal(size=(4000, 3))
    white = np.linalg.solve(np.linalg.cholesky(np.cov(white.T)), (white - white.mean(0)).T).T
    a, b = white * [1.0, 2.0, 0.0] + [0.0, 1.0, 0.0], white * [3.0, 2.0, 0.0] + [0.5, 1.0, 0.0]
    assert metrics.frechet_distance(a, b) == pytest.approx(0.25 + 4.0)
    assert metrics.frechet_distance(a, a) == pytest.approx(0, abs=1e-6)


def test_heldout_images_are_judged_real(judge: Any) -> None:
    report = judge.report(judge.heldout.images, judge.heldout.labels)
    assert report.accuracy == judge.heldout_accuracy
    assert report.frechet == pytest.approx(0, abs=1e-4)
    assert report.nearest_ratio == 1


def test_ruined_images_are_farther_than_the_halves(judge: Any) -> None:
    """Control: the distance of noisy images grows with the noise, past the distance of the two real halves."""
    noise = np.random.default_rng(0).normal(size=judge.heldout.images.shape)
    noisy = [np.clip(judge.heldout.images + size * noise, 0, 16) for size in (1, 3, 5)]
    reports = [judge.report(images, judge.heldout.labels) for images in noisy]
    assert 0 < reports[0].frechet < reports[1].frechet < reports[2].frechet
    assert reports[2].frechet > 3 * judge.frechet_real
    assert reports[2].accuracy < judge.heldout_accuracy - 0.1
    assert reports[2].nearest_ratio > 1.5


def test_collapse_is_seen(judge: Any) -> None:
    """Control: good images of one class only please the classifier; the Fréchet distance must not be pleased."""
    zeros = judge.heldout.images[judge.heldout.labels == 0]
    report = judge.report(np.resize(zeros, (899, 8, 8)), np.zeros(899, int))
    assert report.accuracy > 0.95
    assert report.frechet > 20 * judge.frechet_real


def test_wrong_labels_fail(judge: Any) -> None:
    labels = np.random.default_rng(0).permutation(judge.heldout.labels)
    assert judge.report(judge.heldout.images, labels).accuracy < 0.2


def test_copies_of_training_images_fail(judge: Any) -> None:
    report = judge.report(judge.train.images, judge.train.labels)
    assert report.nearest_ratio == 0
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, judge.train.images.shape)
    blurred = np.clip(judge.train.images + noise, 0, 16)
    assert judge.report(blurred, judge.train.labels).nearest_ratio < 0.3


@pytest.mark.parametrize(
    "images, labels",
    [
        (np.zeros((100, 8, 8)), np.zeros(100, int)),
        (np.zeros((899, 64)), np.zeros(899, int)),
        (np.zeros((899, 8, 8)), np.zeros(898, int)),
        (np.full((899, 8, 8), -0.1), np.zeros(899, int)),
        (np.full((899, 8, 8), np.nan), np.zeros(899, int)),
    ],
)
def test_unfit_arrays_are_refused(judge: Any, images: np.ndarray, labels: np.ndarray) -> None:
    with pytest.raises(ValueError):
        judge.report(images, labels)
