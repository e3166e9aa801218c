"""What a classifier says of samples: the Inception Score, by torch-fidelity, and class accuracy."""

from __future__ import annotations

import numpy as np

from latentc.evaluate.metrics.contract import Compared, Figure, Figures, Metric
from latentc.faults import needed

SPLITS = 10


def _score(compared: Compared) -> Figures:
    torch = needed("torch", "the Inception Score", 'pip install "latentc[evaluate]"')
    isc = needed("torch_fidelity.metric_isc", "the Inception Score", 'pip install "latentc[evaluate]"')
    found = isc.isc_features_to_metric(torch.from_numpy(compared.logits), splits=min(SPLITS, len(compared)))
    return {"inception_score": float(found[isc.KEY_METRIC_ISC_MEAN])}


def _accuracy(compared: Compared) -> Figures:
    assert compared.scores is not None
    return {"accuracy": float(np.mean(compared.scores.argmax(axis=1) == compared.labels))}


def _lacks_logits(compared: Compared) -> str | None:
    return None if compared.logits is not None else "these features come without a classifier's logits"


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
        (Figure("accuracy", "higher", "share of samples in which the classifier sees the class that was asked for"),),
        _accuracy,
        _lacks_classes,
        few=lambda features: 1,
    ),
)
