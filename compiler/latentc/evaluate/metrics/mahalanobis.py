"""The Mahalanobis detector: how far samples are from the classes of the reference (Lee et al. 2018, arXiv:1807.03888).

Symbols: N samples, K classes, F features.
"""

from __future__ import annotations

import numpy as np

from latentc.evaluate.metrics.contract import Array, Compared, Figure, Figures, Metric, lacks_features


def gaussians(features: Array, labels: Array) -> tuple[Array, Array, Array]:
    """Classes [K], their means f64[K, F] and the one precision f64[F, F] that they share, of features [N, F].

    The covariance is that of features less the mean of their class, divided by N; of fewer samples than features, its
    pseudo-inverse is the precision.
    """
    exact = features.astype(np.float64)
    classes, index = np.unique(labels, return_inverse=True)
    means = np.stack([exact[index == k].mean(axis=0) for k in range(len(classes))])
    centred = exact - means[index]
    centred -= centred.mean(axis=0)
    return classes, means, np.linalg.pinv(centred.T @ centred / len(exact), hermitian=True)


def confidences(features: Array, means: Array, precision: Array) -> Array:
    """f64[N, K]: -1/2 of the squared Mahalanobis distance of each sample from each class."""
    exact = features.astype(np.float64)
    return np.stack([-0.5 * np.einsum("nf,fg,ng->n", d, precision, d) for d in (exact - m for m in means)], axis=1)


def auroc(inside: Array, outside: Array) -> float:
    """The probability that a score of `inside` is above one of `outside`; equal ones count half."""
    ordered = np.sort(outside)
    below, upto = (np.searchsorted(ordered, inside, side) for side in ("left", "right"))
    return float((below + upto).mean() / (2 * len(outside)))


def _detected(compared: Compared) -> Figures:
    """Means and precision are those of every second reference sample; the others are what real samples score."""
    reference = compared.reference
    assert reference.features is not None
    labels = reference.labels if reference.labels is not None else np.zeros(len(reference.features), np.int64)
    rows = np.argsort(labels, kind="stable")
    classes, *fitted = gaussians(reference.features[rows[::2]], labels[rows[::2]])
    ours = confidences(compared.features, *fitted)
    theirs = confidences(reference.features[rows[1::2]], *fitted)
    own, real = ours.max(axis=1), theirs.max(axis=1)
    if compared.labels is not None and reference.labels is not None and np.isin(compared.labels, classes).all():
        own = ours[np.arange(len(ours)), np.searchsorted(classes, compared.labels)]
        real = theirs[np.arange(len(theirs)), np.searchsorted(classes, labels[rows[1::2]])]
    away = np.sqrt(-2 * own).mean() / max(np.sqrt(-2 * real).mean(), np.finfo(float).tiny)
    return {"mahalanobis": float(away), "mahalanobis_auroc": auroc(theirs.max(axis=1), ours.max(axis=1))}


def _lacks(compared: Compared) -> str | None:
    found = lacks_features(compared)
    if found is None and compared.reference.features is not None and len(compared.reference.features) < 4:
        return "it needs four samples of the reference"
    return found


METRICS = (
    Metric(
        (
            Figure(
                "mahalanobis",
                "lower",
                "mean Mahalanobis distance from the requested class, over that of real samples; 1 if equal",
            ),
            Figure(
                "mahalanobis_auroc",
                "lower",
                "how well the distance from the nearest class tells samples from real ones; 0.5 if alike, 1 if surely",
            ),
        ),
        _detected,
        _lacks,
    ),
)
