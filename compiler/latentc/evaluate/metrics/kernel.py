"""Kernel Inception Distance, by torch-fidelity."""

from __future__ import annotations

from latentc.diagnostics.faults import needed
from latentc.evaluate.metrics.contract import Compared, Figure, Figures, Metric, lacks_features

SUBSETS, SIZE = 100, 1000


def _kid(compared: Compared) -> Figures:
    torch = needed("torch", "KID", 'pip install "latentc[evaluate]"')
    kid = needed("torch_fidelity.metric_kid", "KID", 'pip install "latentc[evaluate]"')
    assert compared.reference.features is not None
    ours, theirs = torch.from_numpy(compared.features).double(), torch.from_numpy(compared.reference.features).double()
    size = min(SIZE, len(ours), len(theirs))
    subsets = 1 if size == len(ours) == len(theirs) else SUBSETS  # with all samples there is only one subset
    found = kid.kid_features_to_metric(ours, theirs, kid_subsets=subsets, kid_subset_size=size, verbose=False)
    return {"kid": float(found[kid.KEY_METRIC_KID_MEAN])}


def _lacks(compared: Compared) -> str | None:
    features = compared.reference.features
    if features is not None and min(len(compared), len(features)) < 2:
        return "it needs at least two samples"
    return lacks_features(compared)


METRICS = (
    Metric(
        (Figure("kid", "lower", "squared maximum mean discrepancy with a cubic kernel; unbiased, about 0 if equal"),),
        _kid,
        _lacks,
        few=lambda features: 16,
    ),
)
