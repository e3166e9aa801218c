"""Networks that guide in equal ranges of the noise, one after another (PPAP, Go et al. 2022, arXiv:2212.05973)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from pydantic import Field

from latentc.components.guidance.guidance import Array, ScoreTerm
from latentc.components.parts import Applies

if TYPE_CHECKING:
    from latentc.components.processes.process import Process


class ExpertTerm(ScoreTerm):
    """A term whose network may be another one in each range of the noise."""

    APPLIES: ClassVar[Applies] = {"timesteps": ("experts", None)}

    experts: tuple[str, ...] | None = Field(
        None,
        min_length=1,
        max_length=100,
        description="networks used instead of it, each in one of equal noise ranges, lowest noise first (PPAP)",
    )
    timesteps: int | None = Field(
        None,
        gt=1,
        le=100_000,
        description="number of timesteps that the ranges of `experts` divide; null: the process's, 1000 if it has none",
    )

    def ranges(self, process: Process) -> list[tuple[str, str, Callable[[Sequence[float]], Array]]]:
        """(name of the part, expert, its weights) of each range, lowest noise first."""
        own = round(process.first - process.last) + 1 if process.WHOLE else 1000
        timesteps = own if self.timesteps is None else self.timesteps
        return [(f"{i}", name, partial(self.weights_of, i, timesteps)) for i, name in enumerate(self.experts or ())]

    def weights_of(self, expert: int, timesteps: int, progress: Sequence[float]) -> Array:
        """The weights where an expert acts, 0 elsewhere."""
        assert self.experts is not None
        bounds = np.array([timesteps * i // len(self.experts) for i in range(1, len(self.experts) + 1)])
        # Bounds in timesteps, ascending from the data; each belongs to the range below it.
        times = np.round((1.0 - np.asarray(progress, np.float64)) * timesteps, 6)
        return self.weights(progress) * (np.searchsorted(bounds, times) == expert)


__all__ = ["ExpertTerm"]
