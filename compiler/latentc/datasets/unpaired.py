"""Two sets of images without pairs, as the fields `x` (the target) and `image` (the source)."""

from typing import Protocol

import numpy as np

from latentc.datasets.arrays import Array


class Rows(Protocol):
    """A set of images `x` by row number."""

    size: int
    in_memory: bool

    def rows(self, index: Array, rng: np.random.Generator | None = None) -> dict[str, Array]: ...


class Unpaired:
    """A sample is an image of the target and, drawn at random, one of the source; without `rng` those in turn."""

    labels = None

    def __init__(self, target: Rows, source: Rows):
        self.target, self.source = target, source
        self.size, self.in_memory = target.size, target.in_memory and source.in_memory

    def rows(self, index: Array, rng: np.random.Generator | None = None) -> dict[str, Array]:
        """The fields `x` and `image` of samples."""
        count = self.source.size
        other = np.asarray(index) % count if rng is None else rng.integers(count, size=len(index))
        return {"x": self.target.rows(index, rng)["x"], "image": self.source.rows(other, rng)["x"]}
