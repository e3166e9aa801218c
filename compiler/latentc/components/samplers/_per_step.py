"""Settings of masked samplers that may be a number for each step, as a search finds them (AutoNAT, arXiv:2406.05478).

Symbols: N steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from latentc.components.guidance.guidance import Array, ScheduledGuidance
from latentc.components.parts import Fraction, Problem

MOST_STEPS = 100_000
Fractions = Annotated[tuple[Fraction, ...], Field(max_length=MOST_STEPS)]
Positive = Annotated[float, Field(gt=0)]
PerStep = Annotated[tuple[Annotated[float, Field(ge=0)], ...], Field(max_length=MOST_STEPS)]
PositivePerStep = Annotated[tuple[Positive, ...], Field(max_length=MOST_STEPS)]


class SteppedGuidance(ScheduledGuidance):
    """Guidance whose part of (scale - 1) may be given for each step."""

    schedule: Literal["constant", "linear", "cosine"] | PerStep = Field(  # type: ignore[assignment]
        "constant",
        description="how scale - 1 grows with the progress p: constant, as q, or as (1 - cos(pi q)) / 2 with q = "
        "p^power (power-cosine of MDT and DiffiT); or a list of factors, one per step",
    )

    def grown(self, progress: Sequence[float]) -> Array:
        if isinstance(self.schedule, str):
            return super().grown(progress)
        return np.asarray(self.schedule, np.float64)


def numbers_of(value: float | Sequence[float], steps: int) -> Array:
    """f64[N]: a number for all steps, or one for each."""
    return np.broadcast_to(np.asarray(value, np.float64), (steps,)).copy()


def problems_of(name: tuple[str, ...], value: object, wanted: int, each: str) -> Iterator[Problem]:
    """That a list has not as many numbers as there are steps; `each` says of what there is one."""
    if isinstance(value, tuple) and len(value) != wanted:
        yield Problem(name, f"{len(value)} numbers, but there must be one for each {each}: {wanted}", "give as many")


def at_steps(values: Sequence[float], steps: int) -> tuple[float, ...]:
    """As many numbers of a list as other `steps` need, linear between its own."""
    own = np.linspace(0.0, 1.0, len(values))
    return tuple(np.interp(np.linspace(0.0, 1.0, steps), own, values).tolist())


def fractions_at(values: Sequence[float], steps: int) -> tuple[float, ...]:
    """Fractions of hidden tokens after each step but the last, of other `steps`: from 1 at first to 0 in the end."""
    return at_steps((1.0, *values, 0.0), steps + 1)[1:-1]


__all__ = [
    "Fractions",
    "PerStep",
    "Positive",
    "PositivePerStep",
    "SteppedGuidance",
    "at_steps",
    "fractions_at",
    "numbers_of",
    "problems_of",
]
