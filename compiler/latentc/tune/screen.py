"""Tries candidates on the network's engine: solvers, then timesteps, then guidance intervals.

All on the same few samples, whose exact solutions are known; compiled candidates are judged on others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np

from latentc.components.processes.process import Parameterization
from latentc.components.samplers.base import ArraySampler
from latentc.components.samplers.unipc import Unipc
from latentc.tune.budget import front
from latentc.tune.candidates import (
    INTERVALS,
    Candidate,
    Gridded,
    evaluations,
    grid,
    with_timesteps,
)
from latentc.tune.denoiser import Denoiser
from latentc.tune.quality import error
from latentc.tune.report import Screened
from latentc.tune.search import Trajectory, cheapest_path, searched, step_costs, stretched, trajectory
from latentc_runtime.sources import Given

FINE = 100  # steps of the reference solution
GRADING = 1.5  # power by which its steps shorten: the last one, of first order, would otherwise dominate the error
LONGEST = 12  # most evaluations whose timesteps are searched; for more, those of the longest are stretched
SWEEPS = 2  # most sweeps over the timesteps of a candidate
MOST = 24  # most candidates that are compiled

Tell = Callable[[int, int, str], None]  # done, of how many, what


def fine_sampler(own: ArraySampler, target: Parameterization, steps: int = FINE) -> Unipc:
    """The sampler whose solution is taken as exact: many steps, shorter towards the data.

    It has the guidance and clipping of the spec's own sampler.
    """
    sampler = Unipc(kind="unipc", steps=steps, clip=getattr(own, "clip", None), guidance=own.guidance)
    left = (1 - np.arange(steps) / steps) ** GRADING
    interval = sampler.interval(target)
    return with_timesteps(sampler, target.process.spread(interval.start, interval.stop, left))


@dataclass(frozen=True)
class Screen:
    """The samples of the search: what they are asked for, and their exact solutions; `stop()` ends it early."""

    own: ArraySampler
    denoiser: Denoiser
    given: Given
    fine: Trajectory
    stop: Callable[[], bool]

    def error(self, sampler: ArraySampler) -> float:
        """Of a sampler's samples, against the exact solutions."""
        return error(self.denoiser.samples(sampler, self.given), self.fine.samples)

    def screened(self, candidate: Candidate) -> Screened:
        """A candidate with its cost and error."""
        target, sampler = self.denoiser.target, candidate.sampler
        count = evaluations(sampler.table(target))
        return Screened(candidate, count, sampler.runs(target), self.error(sampler))


def open_screen(own: ArraySampler, denoiser: Denoiser, given: Given, stop: Callable[[], bool]) -> Screen:
    """Solves the samples of the search exactly."""
    target = denoiser.target
    sampler = fine_sampler(own, target)
    table, points = sampler.table(target), sampler.grid(target)
    found = [
        trajectory(table, points, target.predicts, denoiser.network(sampler, part), denoiser.noise(part))
        for part in denoiser.parts(given)
    ]
    states = np.concatenate([part.states for part in found], axis=1)
    estimates = np.concatenate([part.estimates for part in found], axis=1)
    fine = Trajectory(points.times[:-1], points.alpha, points.sigma, states, estimates)
    return Screen(own, denoiser, given, fine, stop)


def screen_all(screen: Screen, counts: Sequence[int], tell: Tell) -> list[Screened]:
    """Every candidate, in the order of trying."""
    found = _solvers(screen, counts, tell)
    found += _timesteps(screen, found, tell)
    return found + _intervals(screen, found, tell)


def _solvers(screen: Screen, counts: Sequence[int], tell: Tell) -> list[Screened]:
    tried = grid(screen.own, screen.denoiser.target, counts)
    return _each(screen, tried, "solvers", tell)


def _timesteps(screen: Screen, found: Sequence[Screened], tell: Tell) -> list[Screened]:
    """Searched timesteps for the best solver at each count, starting from those of the next smaller count."""
    target = screen.denoiser.target
    rivals = [s for s in best_of_counts(found) if s.candidate.sampler.steps > 1]
    costs = step_costs(screen.fine) if rivals else np.zeros((0, 1))
    shorter: list[float] = []
    searches: list[Screened] = []
    for i, rival in enumerate(rivals):
        if screen.stop():
            break
        tell(i, len(rivals), f"timesteps of {rival.candidate.sampler.kind}, {rival.evaluations} evaluations")
        sampler = cast(Gridded, rival.candidate.sampler)
        *usual, end = (float(t) for t in sampler.grid(target).times)
        bends = [float(screen.fine.t[j]) for j in cheapest_path(costs, sampler.steps)]
        longer = stretched(shorter, sampler.steps, end) if shorter else usual
        # All start where this solver does: some cannot start at pure noise.
        starts = [[usual[0], *start[1:]] for start in (usual, bends, longer)]

        def tried(timesteps: Sequence[float], sampler: Gridded = sampler) -> float:
            return screen.error(with_timesteps(sampler, timesteps))

        sweeps = SWEEPS if rival.evaluations <= LONGEST else 0
        times, _ = searched(starts, tried, end, target.process.WHOLE, sweeps, screen.stop)
        searches.append(screen.screened(Candidate(with_timesteps(sampler, times), "timesteps")))
        shorter = times
    return searches


def _intervals(screen: Screen, found: Sequence[Screened], tell: Tell) -> list[Screened]:
    """The best at each count, guided in part of the trajectory only."""
    if screen.own.guidance_interval != (0.0, 1.0):
        return []
    target = screen.denoiser.target
    tried = []
    for best in best_of_counts(found):
        for part in INTERVALS:
            sampler = best.candidate.sampler.guided_in(part)
            if sampler.runs(target) < best.passes:
                tried.append(Candidate(sampler, "interval"))
    return _each(screen, tried, "guidance intervals", tell)


def _each(screen: Screen, tried: Sequence[Candidate], what: str, tell: Tell) -> list[Screened]:
    """Every candidate screened, or as many as time allows."""
    found: list[Screened] = []
    for i, candidate in enumerate(tried):
        if screen.stop():
            break
        tell(i, len(tried), what)
        found.append(screen.screened(candidate))
    return found


def best_of_counts(found: Sequence[Screened]) -> list[Screened]:
    """The candidate of least error at each number of evaluations."""
    counts = sorted({s.evaluations for s in found})
    return [min((s for s in found if s.evaluations == count), key=lambda s: s.error) for count in counts]


def shortlist(found: Sequence[Screened]) -> list[Candidate]:
    """The candidates to compile: the best at each count, and the Pareto front of network runs and error."""
    best = best_of_counts(found)
    paretos = [found[i] for i in front([(float(s.passes), s.error) for s in found])]
    left = [s for s in paretos if all(s is not b for b in best)]
    room = max(0, MOST - len(best))
    chosen = [*best, *left[:room]]
    return [s.candidate for s in sorted(chosen, key=lambda s: (s.passes, s.error))]
