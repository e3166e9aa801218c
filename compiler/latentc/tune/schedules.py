"""The search of a masked sampler's schedules: AutoNAT's generation strategy (Ni et al. 2024, arXiv:2406.05478).

A number per step for the fraction that stays hidden, the noise of the choice, the temperature and the guidance. Each
is nudged in turn; the differences are the gradient of the figure, which momentum descends.

Symbols: N steps, P numbers that are searched.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from latentc.components.samplers._masked import ListedSampler

Array = np.ndarray
MOMENTUM = 0.5
HIDDEN = 0.99  # largest fraction of tokens that stay hidden after a step
LEAST = 1e-4  # lower bound of the other numbers
NUDGE, HIDDEN_NUDGE = 0.1, 0.01
RATE, HIDDEN_RATE = 0.4, 0.004  # the authors' 0.1 and 0.001, for a Fréchet distance of 4, relative to the figure
LONGEST = 0.5, 0.05  # largest change of a number in an update


@dataclass(frozen=True)
class Schedules:
    """The P numbers of a listed sampler of `length` tokens.

    Hidden fractions and noise of all steps but the last, which draws whatever is left, then temperatures and guidance
    of all.
    """

    sampler: ListedSampler
    length: int

    @property
    def values(self) -> Array:
        """f64[P]."""
        s = self.sampler
        guided = () if s.guidance is None else s.guidance.schedule
        return np.asarray([*s.schedule, *s.randomness[:-1], *s.temperature, *guided], np.float64)  # type: ignore[misc,index]

    @property
    def fractions(self) -> Array:
        """bool[P]: the numbers that are hidden fractions."""
        return np.arange(len(self.values)) < self.sampler.steps - 1

    def at(self, values: Array) -> ListedSampler:
        """The sampler with other numbers."""
        n = self.sampler.steps
        hidden, noise, temperature, guided = np.split(values, [n - 1, 2 * n - 2, 3 * n - 2])
        changed = {"schedule": hidden, "randomness": np.append(noise, 0.0), "temperature": temperature}
        update: dict[str, Any] = {name: tuple(np.round(numbers, 4).tolist()) for name, numbers in changed.items()}
        if self.sampler.guidance is not None:
            weights = {"schedule": tuple(np.round(guided, 4).tolist())}
            update["guidance"] = self.sampler.guidance.model_copy(update=weights)
        return self.sampler.model_copy(update=update)

    def clipped(self, values: Array) -> Array:
        """Values within their bounds."""
        return np.where(self.fractions, np.clip(values, 0.0, HIDDEN), np.maximum(values, LEAST))


def descended(
    start: ListedSampler,
    length: int,
    figure: Callable[[ListedSampler], float],
    updates: int,
    stop: Callable[[], bool] = bool,
    tell: Callable[[int], None] = lambda done: None,
) -> tuple[ListedSampler, float]:
    """The sampler of least `figure` on the way of so many updates from `start`, and that figure; ends at `stop()`."""
    schedules = Schedules(start, length)
    values = schedules.clipped(schedules.values)
    here = figure(schedules.at(values))
    best, least = values, here
    fractions = schedules.fractions
    # A fraction of less than one token would change nothing.
    nudge = np.where(fractions, max(HIDDEN_NUDGE, 1 / length), NUDGE)
    rate, longest = np.where(fractions, HIDDEN_RATE, RATE), np.where(fractions, LONGEST[1], LONGEST[0])
    speed = np.zeros_like(values)
    for update in range(updates):
        tell(update)
        slope = np.zeros_like(values)
        for i in range(len(values)):
            if stop():
                return schedules.at(best), least
            tried = values.copy()
            tried[i] += nudge[i] if not fractions[i] or values[i] + nudge[i] <= 1.0 else -nudge[i]
            slope[i] = (figure(schedules.at(tried)) - here) / (tried[i] - values[i])
        speed = MOMENTUM * speed + slope / max(abs(here), 1e-12)
        values = schedules.clipped(values - np.clip(rate * speed, -longest, longest))
        here = figure(schedules.at(values))
        if here < least:
            best, least = values, here
    return schedules.at(best), least
