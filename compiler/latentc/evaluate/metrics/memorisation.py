"""How near samples are to the training set: whether they were copied."""

from __future__ import annotations

import numpy as np

from latentc.diagnostics.faults import needed
from latentc.evaluate.metrics.contract import Array, Compared, Figure, Figures, Metric, Neighbours

NEAR = 0.01  # quantile of real samples' distances below which a sample counts as a copy


def neighbours(features: Array, training: Array, held_out: Array | None) -> Neighbours:
    """The nearest of the training features [T, F] for each of `features` [N, F].

    `held_out` [M, F]: features of real samples that training does not see, for comparison.
    """
    distances, indices = _nearest(features, training)
    usual = _nearest(held_out, training)[0] if held_out is not None else _nearest_other(training)
    return Neighbours(distances, indices, usual, len(training))


def _nearest(features: Array, among: Array) -> tuple[Array, Array]:
    metrics = needed("sklearn.metrics", "the distance to training samples", 'pip install "latentc[evaluate]"')
    indices, distances = metrics.pairwise_distances_argmin_min(features, among)
    return distances.astype(np.float64), indices


def _nearest_other(features: Array) -> Array:
    """The distance of each row from the nearest other row, f64[N]."""
    found = needed("sklearn.neighbors", "the distance to training samples", 'pip install "latentc[evaluate]"')
    tree = found.NearestNeighbors(n_neighbors=2, algorithm="brute").fit(features)
    return np.asarray(tree.kneighbors(features)[0][:, 1], np.float64)


def _memorisation(compared: Compared) -> Figures:
    near = compared.neighbours
    assert near is not None
    usual = float(np.median(near.usual))
    distance = float(np.median(near.distances))
    ratio = distance / usual if usual > 0 else float("nan")
    copies = float(np.mean(near.distances < np.quantile(near.usual, NEAR)))
    return {"nearest": distance, "nearest_ratio": ratio, "copies": copies}


def _lacks(compared: Compared) -> str | None:
    return None if compared.neighbours is not None else "the training set is unknown: name it with `--training`"


METRICS = (
    Metric(
        (
            Figure("nearest", "higher", "median distance of a sample's features from the nearest training sample's"),
            Figure("nearest_ratio", "higher", "relative to that of held-out real samples: near 0 if copied, about 1"),
            Figure(
                "copies",
                "lower",
                "fraction nearer to a training sample than 99 % of held-out real samples; 0.01 if not",
            ),
        ),
        _memorisation,
        _lacks,
        few=lambda features: 1,
    ),
)
