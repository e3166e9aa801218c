"""How far results may lie apart: the one table of tolerances, and the error that they bound."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Array = np.ndarray


@dataclass(frozen=True)
class Tolerance:
    """Largest relative error of one run of a network, and of a whole sampler, which adds up the errors of its steps."""

    forward: float
    sampler: float


# By the arithmetic of the engine. A token sequence has no tolerance: it is the same or it is not.
TOLERANCES: dict[str, Tolerance] = {
    "fp32": Tolerance(forward=1e-5, sampler=1e-4),
    # A 10-bit mantissa rounds to 5e-4 and a 7-bit one to 4e-3; a deep network adds up some of each. DiT-S/2 with random
    # weights in OpenVINO's bf16: 1.1e-2, and 3.7e-2 at late times, whose embedding it rounds as well.
    "fp16": Tolerance(forward=5e-3, sampler=2e-2),
    "bf16": Tolerance(forward=6e-2, sampler=1e-1),
}


def relative_error(result: Array, reference: Array) -> float:
    """max|result - reference| / max|reference|; of whole numbers the share that differs.

    Infinite where a shape differs or a value is no finite number, and for any difference from a reference of zeros.
    """
    if result.shape != reference.shape:
        return float("inf")
    if result.size == 0:
        return 0.0
    if reference.dtype.kind not in "f":
        return float(np.mean(result != reference))
    worst = float(np.max(np.abs(np.asarray(result, np.float64) - reference)))
    if worst == 0.0:
        return 0.0
    scale = float(np.max(np.abs(reference)))
    return worst / scale if np.isfinite(worst) and 0 < scale < np.inf else float("inf")


__all__ = ["TOLERANCES", "Tolerance", "relative_error"]
