"""MCMI: loss and gradients of a linear classifier, with the centroids that the authors' code makes of other data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from cases import Array, Loss
from parity_data import Numbers

SIZES = (
    "data={kind: npz, path: x.npz, classes: 5, fields: {x: {shape: [12]}}}",
    "networks.main={kind: mlp_classifier, widths: []}",
    "weights={official: {main: [{from: '*', to: 'output.*'}], centroids: [{from: '*', to: '*'}]}}",
)


def batch(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    return numbers.inputs


def total(numbers: Numbers) -> Array:
    return np.asarray(numbers.outputs["out.total"])


CASES = [
    Loss("mcmi", "mcmi", SIZES, batch, wanted=total, prefixes={"main": "net.", "centroids": "centroids."}),
]
