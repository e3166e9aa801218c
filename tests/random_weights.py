"""Random weights of networks, for comparisons with formulas written out."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from latentc.checkpoint import buffer, computed
from latentc.ir.core import Param
from latentc.weights import materialise


def random_weights(params: Mapping[str, Param], rng: np.random.Generator, std: float) -> dict[str, np.ndarray]:
    """Normal weights of deviation `std` by path, f64; buffers that follow from the spec have their own values."""
    return {
        path: np.asarray(materialise(buffer(param)))
        if computed(param)
        else std * rng.standard_normal([int(d) for d in param.type.shape])  # type: ignore[arg-type]
        for path, param in params.items()
    }
