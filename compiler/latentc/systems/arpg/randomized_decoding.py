"""Group after group of tokens in random orders: ARPG's sampler."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from latentc.components import Steps
from latentc.systems.randar.instructed_decoding import InstructedDecoding

Schedule = Literal["arccos", "cosine"]


def group_sizes(steps: int, length: int, schedule: Schedule) -> tuple[int, ...]:
    """Tokens of each group: after step s of N, as many of T are left as T arccos((s + 1) / N) 2 / pi, or T cos(pi/2
    (s + 1) / N), rounded down, but at least one token is drawn; the last step takes all that are left.
    """
    sizes, known = list[int](), 0
    for step in range(steps):
        share = (step + 1) / steps
        left = np.arccos(share) / (np.pi / 2) if schedule == "arccos" else np.cos(np.pi / 2 * share)
        count = length - known - max(1, min(length - known - 1, int(length * left)))
        sizes.append(length - known if step == steps - 1 else count)
        known += sizes[-1]
    return tuple(sizes)


class RandomizedDecoding(InstructedDecoding):
    """Draws groups of tokens in a random order of positions per sample (ARPG, Li et al. 2025, arXiv:2503.10568).

    The progress of the guidance of a group is the number of tokens known once it is drawn, divided by T. In the
    authors' code the order is the same for a whole batch.
    """

    kind: Literal["randomized_decoding"]  # type: ignore[assignment]
    steps: Steps = Field(64, description="number of groups, whose sizes follow `schedule`")
    schedule: Schedule = Field("arccos", description="fall of the number of unknown tokens")
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "randomized_decoding",
        "steps": 3,
        "guidance": {"scale": 2.0, "schedule": "linear"},
    }

    def sizes(self, length: int) -> tuple[int, ...]:
        return group_sizes(self.steps, length, self.schedule)

    def progress(self, start: int, size: int, length: int) -> float:
        return (start + size) / length
