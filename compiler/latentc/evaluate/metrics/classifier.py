"""Metrics of a classifier: the Inception Score, by torch-fidelity, class accuracy, and how far they are from
the boundary between classes.
"""

from __future__ import annotations

import numpy as np

from latentc.diagnostics.faults import needed
from latentc.evaluate.metrics.contract import Array, Compared, Figure, Figures, Metric

SPLITS = 10
NEAR = 2.0  # log odds of about 7 to 1


def _score(compared: Compared) -> Figures:
    torch = needed("torch", "the Inception Score", 'pip install "latentc[evaluate]"')
    isc = needed("torch_fidelity.metric_isc", "the Inception Score", 'pip install "latentc[evaluate]"')
    found = isc.isc_features_to_metric(torch.from_numpy(compared.logits), splits=min(SPLITS, len(compared)))
    return {"inception_score": float(found[isc.KEY_METRIC_ISC_MEAN])}


def _accuracy(compared: Compared) -> Figures:
    assert compared.scores is not None
    return {"accuracy": float(np.mean(compared.scores.argmax(axis=1) == compared.labels))}


def margins(scores: Array, labels: Array) -> Array:
    """f64[N]: the log odds of each label against the likeliest other class, of logits [N, K]; 0 on the boundary."""
    exact, rows = scores.astype(np.float64), np.arange(len(labels))
    others = exact.copy()
    others[rows, labels] = -np.inf
    return np.asarray(exact[rows, labels] - others.max(axis=1))


def _margin(compared: Compared) -> Figures:
    assert compared.scores is not None and compared.labels is not None
    found = margins(compared.scores, compared.labels)
    return {"margin": float(found.mean()), "near_boundary": float(np.mean(np.abs(found) < NEAR))}


def _lacks_logits(compared: Compared) -> str | None:
    return None if compared.logits is not None else "the features come without a classifier's logits"


def _lacks_classes(compared: Compared) -> str | None:
    if compared.labels is None:
        return "the samples have no labels"
    if compared.scores is None:
        return "no classifier of the data's classes: name one with `--classifier`"
    return None


METRICS = (
    Metric(
        (Figure("inception_score", "higher", "exp of the mutual information between sample and class, 10 splits"),),
        _score,
        _lacks_logits,
    ),
    Metric(
        (Figure("accuracy", "higher", "fraction of samples classified as the requested class"),),
        _accuracy,
        _lacks_classes,
        few=lambda features: 1,
    ),
    Metric(
        (
            Figure("margin", "higher", "mean log odds of the requested class against the most likely other"),
            Figure(
                "near_boundary", "lower", "fraction of samples whose two most likely classes are within odds of 7 to 1"
            ),
        ),
        _margin,
        _lacks_classes,
    ),
)
