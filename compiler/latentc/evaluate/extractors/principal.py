"""Principal components of the reference: features of any arrays, without a network.

Symbols: N samples, F features.
"""

from __future__ import annotations

import hashlib

import numpy as np

from latentc.evaluate.extractors.contract import Array, Extractor, Features

MOST = 64  # number of components


class Principal(Extractor):
    """The first 64 principal components of the reference samples, not scaled."""

    name = "principal"
    title = "principal components of the reference"
    view = "vectors"

    def __init__(self, reference: Array) -> None:
        """`reference`: vectors [N, D], two or more."""
        if len(reference) < 2:
            raise ValueError("principal components need at least two reference samples")
        flat = reference.astype(np.float64)
        self.centre = flat.mean(axis=0)
        _, _, axes = np.linalg.svd(flat - self.centre, full_matrices=False)
        self.axes = axes[: min(MOST, len(reference) - 1)]
        self._identity = hashlib.sha256(reference.tobytes()).hexdigest()

    @property
    def identity(self) -> str:
        return f"principal {self._identity}"

    def extract(self, samples: Array) -> Features:
        if samples.shape[1:] != self.centre.shape:
            raise ValueError(f"samples have {samples.shape[1]} values, but the reference has {len(self.centre)}")
        return Features(((samples - self.centre) @ self.axes.T).astype(np.float32))
