"""Classifier-free guidance whose scale grows over the steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from latentc.components.sampler import Guidance
from latentc.ir.builder import Builder, Var


class ScheduledGuidance(Guidance):
    """Guidance that may grow from none (scale 1) to `scale` on the way from noise (0) to data (1)."""

    schedule: Literal["constant", "linear", "cosine"] = Field(
        "constant",
        description="how scale - 1 grows with the progress p: not at all, as p, or as (1 - cos(pi p)) / 2",
    )

    def weights(self, progress: Sequence[float]) -> NDArray[np.float64]:
        """The part of scale - 1 that acts at each progress; 0 outside `interval`."""
        p = np.asarray(progress, np.float64)
        grown = {"constant": np.ones_like(p), "linear": p, "cosine": (1 - np.cos(np.pi * p)) / 2}[self.schedule]
        return grown * [self.acts(float(one)) for one in p]


def scale_at(b: Builder, scale: Var, weight: Var) -> Var:
    """1 + (scale - 1) * weight."""
    return b.add((scale - 1.0) * weight, 1.0, out="scale")  # type: ignore[no-any-return]


__all__ = ["ScheduledGuidance", "scale_at"]
