"""How good are generated handwritten digits? A classifier, a Fréchet distance and a test for copying.

Everything is measured with scikit-learn's digits (1,797 grey images of 8 × 8, levels 0 to 16), cut once into
a half the generators learn from and a half that nothing learns from:

- **accuracy**: how often an independent classifier, trained on real digits only, finds the class that was
  asked for;
- **Fréchet distance** (Heusel et al. 2017, "GANs trained by a two time-scale update rule", eq. 6) between
  the classifier's features of the generated and of the held-out images, beside the same distance between the
  two real halves;
- **nearest ratio**: the median distance to the nearest training image, as a part of what it is for held-out
  images. A generator that copies its training images comes near 0; new images of real quality near 1.

Symbols: N images, F features.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier

from latentc.evaluate.extractors.digits import classifier
from latentc.measure.metrics import frechet_distance

Levels = NDArray[np.floating] | NDArray[np.integer]  # images of grey levels, whole or not

LEVELS = 16  # the brightest grey level
TRAIN = 898  # images of the training half; the other 899 are held out


class Digits(NamedTuple):
    """Images uint8 [N, 8, 8] of grey levels 0 to 16, and their labels int64 [N] of 0 to 9."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]


class Report(NamedTuple):
    """What `Judge.report` finds; see the top of this file for the meaning of each number."""

    accuracy: float
    frechet: float
    frechet_real: float
    nearest_ratio: float


def split() -> tuple[Digits, Digits]:
    """The digits' training half (898 images) and held-out half (899 images).

    The order is `numpy.random.RandomState(0).permutation(1797)`: NumPy keeps the numbers of that old generator
    fixed for ever (NEP 19), so training code anywhere can repeat the split with one line. Mixed before cutting
    because the file's last 500 images were written by other people than the rest.
    """
    images, labels = load_digits(return_X_y=True)
    order = np.random.RandomState(0).permutation(len(labels))
    images, labels = images[order].reshape(-1, 8, 8).astype(np.uint8), labels[order].astype(np.int64)
    return Digits(images[:TRAIN], labels[:TRAIN]), Digits(images[TRAIN:], labels[TRAIN:])


def nearest_distances(images: Levels, among: Levels) -> NDArray[np.float64]:
    """Euclidean distance of each of the images [N, 8, 8] to the nearest of `among` [M, 8, 8], in grey levels [N]."""
    distances: NDArray[np.float64] = cdist(images.reshape(len(images), -1), among.reshape(len(among), -1))
    nearest: NDArray[np.float64] = distances.min(axis=1)
    return nearest


class Judge:
    """An independent classifier of real digits, and the numbers of the real halves to compare with.

    `heldout_accuracy` is the classifier's own on the held-out half (about 0.98): the most that a generator's
    accuracy says anything about. Generators should be asked for `heldout.labels`, so that classes are mixed as
    in the half they are compared with.
    """

    def __init__(self, classifier: MLPClassifier, train: Digits, heldout: Digits) -> None:
        self.train, self.heldout = train, heldout
        self._classifier = classifier
        self.heldout_accuracy = float(np.mean(self.classify(heldout.images) == heldout.labels))
        self._heldout_features = self.features(heldout.images)
        self.frechet_real = frechet_distance(self.features(train.images), self._heldout_features)
        self._heldout_nearest = float(np.median(nearest_distances(heldout.images, train.images)))

    @classmethod
    def fit(cls, progress: Callable[[Iterable[int]], Iterable[int]] = iter) -> Judge:
        """Train the classifier on the training half, always the same way (about three seconds of one core).

        `progress` wraps the epochs, as `tqdm` does.
        """
        train, heldout = split()
        return cls(classifier(progress), train, heldout)

    def classify(self, images: Levels) -> NDArray[np.int64]:
        """The classes [N], 0 to 9, that the classifier finds in images [N, 8, 8] of grey levels."""
        found: NDArray[np.int64] = self._classifier.predict(_rows(images))
        return found

    def features(self, images: Levels) -> NDArray[np.float64]:
        """The last hidden layer of the classifier, f64 [N, F = 64], for images [N, 8, 8] of grey levels."""
        hidden = _rows(images)
        for weight, bias in zip(self._classifier.coefs_[:-1], self._classifier.intercepts_[:-1], strict=True):
            hidden = np.maximum(hidden @ weight + bias, 0)
        return hidden

    def report(self, images: Levels, labels: NDArray[np.integer]) -> Report:
        """Judge generated images [N, 8, 8] of grey levels in [0, 16], asked to be of the classes labels [N].

        N must be the size of one of the halves: a Fréchet distance falls as N grows, and `frechet_real` is
        that of halves. Raises ValueError for another N, another shape, or values outside [0, 16].
        """
        sizes = (len(self.train.images), len(self.heldout.images))
        if images.shape[1:] != (8, 8) or len(images) not in sizes or labels.shape != images.shape[:1]:
            raise ValueError(
                f"need {sizes[1]} images [N, 8, 8] and as many labels, not {images.shape} and {labels.shape}"
            )
        if not np.all((images >= 0) & (images <= LEVELS)):
            raise ValueError(f"grey levels must lie in [0, {LEVELS}]")
        nearest = float(np.median(nearest_distances(images, self.train.images)))
        return Report(
            accuracy=float(np.mean(self.classify(images) == labels)),
            frechet=frechet_distance(self.features(images), self._heldout_features),
            frechet_real=self.frechet_real,
            nearest_ratio=nearest / self._heldout_nearest,
        )


@functools.cache
def _judge() -> Judge:
    """The judge, trained at its first use."""
    return Judge.fit()


def judged(samples: NDArray[np.floating], classes: NDArray[np.integer]) -> dict[str, float | tuple[float, str]]:
    """Accuracy (higher is better) and Fréchet distance of samples f32[N, 1, 8, 8] in -1…1, for `latentc tune`.

    latentc tune digits_dit -w weights.safetensors --metric examples/digits/metrics.py:judged -o tuned
    """
    judge, levels = _judge(), np.clip((samples[:, 0] + 1) * (LEVELS / 2), 0, LEVELS)
    heldout = judge.features(judge.heldout.images)
    accuracy = float(np.mean(judge.classify(levels) == classes))
    return {"frechet": frechet_distance(judge.features(levels), heldout), "accuracy": (accuracy, "higher")}


def _rows(images: Levels) -> NDArray[np.float64]:
    """Images [N, 8, 8] of grey levels as the classifier's input, f64 [N, 64] in [0, 1]."""
    return images.reshape(len(images), -1).astype(np.float64) / LEVELS
