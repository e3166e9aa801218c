"""What a sampler needs to know of an objective: the forward process and what the network predicts of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from latentc.components.objectives.diffusion import Diffusion
from latentc.components.objectives.flow import Flow
from latentc.components.prediction import Array, Prediction
from latentc.components.schedules import Path, Schedule

Family = Literal["diffusion", "flow"]
Variance = Literal["fixed_small", "fixed_large", "learned_range"]
# a flow's spec says velocity for what is another thing in diffusion
_FLOW: dict[str, Prediction] = {"velocity": "flow_velocity", "score": "score", "noise": "noise"}


@dataclass(frozen=True, eq=False)
class Process:
    """A forward process, on a discrete `schedule` (diffusion) or a continuous `path` (flow): one of the two.

    `predicts`: what the network's first output channels are (a flow's "velocity" is `flow_velocity` here).
    `variance`: of the reverse steps of a diffusion; with `learned_range` the network has twice the channels.
    """

    predicts: Prediction
    schedule: Schedule | None = None
    path: Path | None = None
    variance: Variance = "fixed_small"

    def __post_init__(self) -> None:
        if (self.schedule is None) == (self.path is None):
            raise ValueError("a process has a schedule or a path, one of the two")

    @property
    def family(self) -> Family:
        return "diffusion" if self.path is None else "flow"

    def progress(self, t: ArrayLike) -> Array:
        """How far from noise (0) to data (1) the network's times `t` are, f64 of their shape.

        A flow's own time; of a schedule of T levels, 1 - t / (T - 1).
        """
        if self.schedule is None:
            return np.asarray(t, np.float64)
        return 1.0 - np.asarray(t, np.float64) / max(self.schedule.steps - 1, 1)


def process_of(objective: object) -> Process | None:
    """The process of an objective that has one; None for others (next-token prediction, none at all)."""
    if isinstance(objective, Diffusion):
        return Process(objective.predicts, schedule=objective.levels(), variance=objective.variance)
    if isinstance(objective, Flow):
        return Process(_FLOW[objective.predicts], path=objective.interpolant())
    return None
