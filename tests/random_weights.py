"""Random weights of networks, for comparisons with formulas written out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from latentc.checkpoint import buffer, computed, network_params
from latentc.components.contract import Lowered
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


def weights_of(
    lowered: Lowered, std: float, rng: np.random.Generator | int = 0, networks: Iterable[str] | None = None
) -> dict[str, np.ndarray]:
    """`random_weights` of all networks, or of those named, as `NETWORK.PATH`; `rng` may be a seed."""
    rng = np.random.default_rng(rng)
    params = {name: network_params(lowered, lowered.networks[name]) for name in networks or lowered.networks}
    return {f"{name}.{path}": a for name, own in params.items() for path, a in random_weights(own, rng, std).items()}
