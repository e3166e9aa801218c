"""The contract of metrics, and the samples that they compare.

Symbols: N samples, M reference samples, T training samples, F features, K classes, S spatial features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from latentc.files.named import FileArray

Array = np.ndarray
Figures = dict[str, float]


@dataclass(frozen=True)
class Moments:
    """Mean f64[F] and covariance f64[F, F] of features; statistics of a file are read once F is known to fit."""

    mean: Array
    covariance: Array | FileArray


def moments(features: Array) -> Moments:
    """The moments of features [N, F], N of two or more; the covariance is divided by N - 1."""
    exact = features.astype(np.float64)
    return Moments(exact.mean(axis=0), np.atleast_2d(np.cov(exact, rowvar=False)))


@dataclass(frozen=True)
class Reference:
    """The reference that samples are compared with.

    `features` [M, F] and `labels` i64[M] are None if only the moments are known. `spatial` are the moments for sFID.
    `name`: what it is, in words. `count`: how many samples it stands for, if that is known.
    """

    name: str
    moments: Moments
    features: Array | None = None
    labels: Array | None = None
    spatial: Moments | None = None
    count: int | None = None


@dataclass(frozen=True)
class Neighbours:
    """The nearest training sample of each sample, in the space of features.

    `distances` f64[N] and its row `indices` i64[N]. `usual` f64: the same distances of real samples that training does
    not see, or, if there are none, of each training sample from the others. `count`: training samples looked through.
    """

    distances: Array
    indices: Array
    usual: Array
    count: int


@dataclass(frozen=True)
class Compared:
    """Samples and their reference in the space of one extractor.

    `labels` i64[N]: the class that was asked for. `logits` [N, K]: of any classifier. `scores` [N, K]: logits of the
    classes that labels are of.
    """

    features: Array
    reference: Reference
    logits: Array | None = None
    scores: Array | None = None
    labels: Array | None = None
    spatial: Array | None = None
    neighbours: Neighbours | None = None

    def __len__(self) -> int:
        return len(self.features)

    def of_class(self, label: int) -> Compared:
        """The samples of one class, and the reference's if it has labels."""
        assert self.labels is not None
        own, reference, near = self.labels == label, self.reference, self.neighbours
        if reference.features is not None and reference.labels is not None:
            features = reference.features[reference.labels == label]
            about = moments(features) if len(features) > 1 else Moments(features.sum(axis=0), np.zeros((0, 0)))
            reference = replace(reference, moments=about, features=features, labels=None, spatial=None)
        else:
            reference = replace(reference, features=None, spatial=None)
        return replace(
            self,
            features=self.features[own],
            reference=reference,
            logits=None if self.logits is None else self.logits[own],
            scores=None if self.scores is None else self.scores[own],
            labels=self.labels[own],
            spatial=None,
            neighbours=None
            if near is None
            else replace(near, distances=near.distances[own], indices=near.indices[own]),
        )


@dataclass(frozen=True)
class Figure:
    """One number that a metric gives: its name in tables and budgets, whether lower or higher is better, what it is."""

    name: str
    better: Literal["lower", "higher"]
    about: str


@dataclass(frozen=True)
class Metric:
    """Computes figures from what is compared.

    `lacks`: what is missing for it, in words, or None. `few`: the fewest samples of a class for which it means
    something, of F features; None: it is not computed per class.
    """

    figures: tuple[Figure, ...]
    compute: Callable[[Compared], Mapping[str, float]]
    lacks: Callable[[Compared], str | None]
    few: Callable[[int], int] | None = None


def lacks_features(compared: Compared) -> str | None:
    """The problem of a reference without single samples, for metrics that compare them."""
    if compared.reference.features is None:
        return "the reference holds only statistics: name images, such as an .npz with `arr_0`"
    return None
