"""NeuralCSA (Frauen et al. 2024): Pyro's conditional spline flow of one number, as the authors use it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from cases import Array, Forward
from parity_data import Numbers


def context(numbers: Numbers) -> dict[str, Array]:
    told = numbers.inputs["context"]
    return {"covariates": told[:, :1], "treatment": told[:, 1:]}


def latents(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    return {"z": numbers.inputs["u"], **context(numbers)}


def outcomes(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    return {"x": numbers.inputs["y"], **context(numbers)}


def both(out: Any, numbers: Numbers, spec: Any) -> Array:
    """Values and log-determinants side by side."""
    values, slopes = out.values()
    return np.concatenate([np.asarray(values), np.asarray(slopes)[:, None]], axis=1)


CASES = [
    Forward(f"neural_csa.{name}", "neural_csa", (), inputs, every_output=True, output=both, method=method)
    for name, method, inputs in (("shift", "shift", latents), ("inverse", "forward", outcomes))
]
