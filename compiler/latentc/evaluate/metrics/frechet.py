"""Fréchet distances: FID, and sFID on spatial features."""

from __future__ import annotations

from latentc.evaluate.metrics.contract import Compared, Figure, Figures, Metric, moments
from latentc.measure.metrics import frechet_of_moments


def _fid(compared: Compared) -> Figures:
    ours, theirs = moments(compared.features), compared.reference.moments
    return {"fid": frechet_of_moments(ours.mean, ours.covariance, theirs.mean, theirs.covariance)}


def _lacks(compared: Compared) -> str | None:
    features = compared.reference.features
    if len(compared) < 2 or (features is not None and len(features) < 2):
        return "a covariance needs two samples"
    return None


FID = Metric(
    (Figure("fid", "lower", "Fréchet distance between the features of samples and reference"),),
    _fid,
    _lacks,
    few=lambda features: features,  # with fewer, the covariance is singular and the bias of the distance dominates
)


def _sfid(compared: Compared) -> Figures:
    assert compared.spatial is not None and compared.reference.spatial is not None
    ours, theirs = moments(compared.spatial), compared.reference.spatial
    return {"sfid": frechet_of_moments(ours.mean, ours.covariance, theirs.mean, theirs.covariance)}


def _lacks_spatial(compared: Compared) -> str | None:
    if compared.spatial is None:
        return "these features do not keep their place in the picture (Inception's state dict has such)"
    if compared.reference.spatial is None:
        return "the reference has no spatial statistics (`mu_s`, `sigma_s`)"
    return _lacks(compared)


SFID = Metric(
    (Figure("sfid", "lower", "Fréchet distance between spatial features (Nash et al. 2021)"),), _sfid, _lacks_spatial
)

METRICS = (FID, SFID)
