"""Precision and recall by torch-fidelity, density and coverage by prdc."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable

import numpy as np

from latentc.datasets.arrays import drawn_rows
from latentc.diagnostics.faults import needed
from latentc.evaluate.metrics.contract import Array, Compared, Figure, Figures, Metric, lacks_features

MOST = 10_000  # samples per side, as in ADM's evaluation: distances of all pairs are held in memory
NEIGHBOURS = 3  # of precision and recall (Kynkäänniemi et al. 2019)
DENSE = 5  # of density and coverage (Naeem et al. 2020)


def _sides(compared: Compared) -> tuple[Array, Array]:
    """Features of samples and of the reference, at most MOST of each."""
    reference = compared.reference
    assert reference.features is not None
    sides = ((compared.features, compared.labels), (reference.features, reference.labels))
    ours, theirs = (found[drawn_rows(labels, len(found), MOST)] for found, labels in sides)
    return ours, theirs


def _precision(compared: Compared) -> Figures:
    torch = needed("torch", "precision and recall", 'pip install "latentc[evaluate]"')
    prc = needed("torch_fidelity.metric_prc", "precision and recall", 'pip install "latentc[evaluate]"')
    ours, theirs = map(torch.from_numpy, _sides(compared))
    found = prc.prc_features_to_metric(ours, theirs, prc_neighborhood=NEIGHBOURS, save_cpu_ram=True, verbose=False)
    return {"precision": float(found["precision"]), "recall": float(found["recall"])}


def _density(compared: Compared) -> Figures:
    prdc = needed("prdc", "density and coverage", 'pip install "latentc[evaluate]"')
    ours, theirs = _sides(compared)
    with contextlib.redirect_stdout(io.StringIO()):  # suppresses its printed counts
        found = prdc.compute_prdc(real_features=theirs, fake_features=ours, nearest_k=DENSE)
    return {name: float(np.float64(found[name])) for name in ("density", "coverage")}


def _needs(neighbours: int) -> Callable[[Compared], str | None]:
    def lacks(compared: Compared) -> str | None:
        features = compared.reference.features
        if features is not None and min(len(compared), len(features)) < neighbours + 2:
            return f"it needs {neighbours} neighbours, but there are fewer samples"
        return lacks_features(compared)

    return lacks


METRICS = (
    Metric(
        (
            Figure("precision", "higher", "fraction of samples within the reference, by its 3 nearest neighbours"),
            Figure("recall", "higher", "fraction of the reference within the samples, by their 3 nearest neighbours"),
        ),
        _precision,
        _needs(NEIGHBOURS),
        few=lambda features: 16,
    ),
    Metric(
        (
            Figure("density", "higher", "reference neighbourhoods that hold a sample, on average, over 5; 1 if equal"),
            Figure(
                "coverage", "higher", "fraction of reference samples with a sample among their 5 nearest neighbours"
            ),
        ),
        _density,
        _needs(DENSE),
        few=lambda features: 16,
    ),
)
