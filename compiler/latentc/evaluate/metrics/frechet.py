"""Fréchet distances: FID with Inception's features, others by the name of the features, and sFID on spatial ones."""

from __future__ import annotations

import numpy as np

from latentc.evaluate.metrics.contract import Array, Compared, Figure, Metric, Moments, moments
from latentc.measure.metrics import frechet_of_moments


def _distance(features: Array | None, reference: Moments | None) -> float:
    assert features is not None and reference is not None
    own = moments(features)
    return frechet_of_moments(own.mean, np.asarray(own.covariance), reference.mean, np.asarray(reference.covariance))


def _lacks(compared: Compared) -> str | None:
    features = compared.reference.features
    if len(compared) < 2 or (features is not None and len(features) < 2):
        return "a covariance needs at least two samples"
    return None


FRECHET = Metric(
    (Figure("fd", "lower", "Fréchet distance between the features of samples and reference"),),
    lambda compared: {"fd": _distance(compared.features, compared.reference.moments)},
    _lacks,
    few=lambda features: features,  # with fewer, the covariance is singular and the bias of the distance dominates
)


def _lacks_spatial(compared: Compared) -> str | None:
    if compared.spatial is None:
        return "these features are not spatial (Inception's state dict has spatial ones)"
    if compared.reference.spatial is None:
        return "the reference has no spatial statistics (`mu_s`, `sigma_s`)"
    return _lacks(compared)


SFID = Metric(
    (Figure("sfid", "lower", "Fréchet distance between spatial features (Nash et al. 2021)"),),
    lambda compared: {"sfid": _distance(compared.spatial, compared.reference.spatial)},
    _lacks_spatial,
)

METRICS = (FRECHET, SFID)
