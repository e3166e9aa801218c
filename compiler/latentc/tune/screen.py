"""Tries candidates on the network's engine: solvers, then timesteps, then guidance intervals.

All on the same few samples, whose exact solutions are known; compiled candidates are judged on others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from latentc.components.samplers.base import ArraySampler
from latentc.measure.metrics import mean_distance
from latentc.tune.alternatives import reference
from latentc.tune.budget import front
from latentc.tune.candidates import Candidate, grid
from latentc.tune.denoiser import Denoiser
from latentc.tune.search import Trajectory, cheapest_path, searched, step_costs, stretched, trajectory
from latentc_runtime.sources import Given

FINE = 100  # steps of the reference solution
LONGEST = 12  # most evaluations whose timesteps are searched; beyond, the longest found are stretched
SWEEPS = 2  # largest number of sweeps over the timesteps of a candidate
MOST = 24  # largest number of compiled candidates

INTERVALS = ((0.0, 0.8), (0.0, 0.6), (0.1, 1.0), (0.2, 1.0), (0.2, 0.8), (0.4, 1.0))
"""Guidance intervals to try, from noise (0) to data (1)."""

Tell = Callable[[int, int, str], None]  # done, total, stage


@dataclass(frozen=True)
class Screened:
    """A candidate tried on the engine of the network alone, with its error on the samples of the search."""

    candidate: Candidate
    evaluations: int
    runs: int  # of the network: two for a guided evaluation
    error: float


@dataclass(frozen=True)
class Screen:
    """The search over the samples of the request `given`, whose exact solutions are `fine`; `stop()` ends it early.

    After half of the `left()` seconds the timesteps of the solvers tried so far are searched; the others come last.
    """

    own: ArraySampler
    denoiser: Denoiser
    given: Given
    fine: Trajectory
    stop: Callable[[], bool]
    tell: Tell
    left: Callable[[], float] = lambda: math.inf

    def run(self, counts: Sequence[int]) -> list[Screened]:
        """Every candidate of `counts` evaluations, in the order of trying: middle counts first, as time may run out."""
        tried = grid(self.own, self.denoiser.target, spread(counts))
        begun = self.left()
        found = self._each(tried, "solvers", lambda: self.left() < begun / 2)
        rest = tried[len(found) :]
        found += self._timesteps(found)
        found += self._intervals(found)
        return found + self._each(rest, "solvers")

    def error(self, sampler: ArraySampler) -> float:
        """The error of a sampler's samples against the exact solutions."""
        return mean_distance(self.denoiser.samples(sampler, self.given), self.fine.samples)

    def _screened(self, candidate: Candidate) -> Screened:
        target, sampler = self.denoiser.target, candidate.solver
        count = sampler.table(target).all_progress.size
        return Screened(candidate, count, sampler.runs(target), self.error(sampler))

    def _each(
        self, tried: Sequence[Candidate], stage: str, until: Callable[[], bool] = lambda: False
    ) -> list[Screened]:
        """Every candidate screened, or as many as time allows."""
        found: list[Screened] = []
        for i, candidate in enumerate(tried):
            if until() or self.stop():
                break
            self.tell(i, len(tried), stage)
            found.append(self._screened(candidate))
        return found

    def _timesteps(self, found: Sequence[Screened]) -> list[Screened]:
        """Searched timesteps for the best solver at each count, starting from those of the next smaller count."""
        target = self.denoiser.target
        rivals = [s for s in best_of_counts(found) if s.candidate.solver.steps > 1]
        costs = step_costs(self.fine) if rivals else np.zeros((0, 1))
        shorter: list[float] = []
        searches: list[Screened] = []
        for i, rival in enumerate(rivals):
            if self.stop():
                break
            sampler = rival.candidate.solver
            self.tell(i, len(rivals), f"timesteps of {sampler.kind}, {rival.evaluations} evaluations")
            *usual, end = (float(t) for t in sampler.grid(target).times)
            cheapest = [float(self.fine.t[j]) for j in cheapest_path(costs, sampler.steps)]
            longer = stretched(shorter, sampler.steps, end) if shorter else usual
            # All start where this solver does, because some cannot start at pure noise.
            starts = [[usual[0], *start[1:]] for start in (usual, cheapest, longer)]

            def error(timesteps: Sequence[float], sampler: ArraySampler = sampler) -> float:
                return self.error(sampler.with_timesteps(timesteps))

            sweeps = SWEEPS if rival.evaluations <= LONGEST else 0
            shorter, _ = searched(starts, error, end, target.process.WHOLE, sweeps, self.stop)
            searches.append(self._screened(Candidate(sampler.with_timesteps(shorter), "timesteps")))
        return searches

    def _intervals(self, found: Sequence[Screened]) -> list[Screened]:
        """The best at each count, guided in part of the trajectory only."""
        if self.own.guidance_interval != (0.0, 1.0):
            return []
        tried = []
        for best in best_of_counts(found):
            for interval in INTERVALS:
                sampler = best.candidate.solver.guided_in(interval)
                if sampler.runs(self.denoiser.target) < best.runs:
                    tried.append(Candidate(sampler, "interval"))
        return self._each(tried, "guidance intervals")


def open_screen(
    own: ArraySampler,
    denoiser: Denoiser,
    given: Given,
    stop: Callable[[], bool],
    tell: Tell,
    left: Callable[[], float] = lambda: math.inf,
) -> Screen:
    """Solves the samples of the search exactly."""
    target = denoiser.target
    sampler = reference(own, target, FINE)
    table, points = sampler.table(target), sampler.grid(target)
    parts = [
        trajectory(table, points, target.predicts, denoiser.network(sampler, part), denoiser.noise(part))
        for part in denoiser.parts(given)
    ]
    states = np.concatenate([part.states for part in parts], axis=1)
    estimates = np.concatenate([part.estimates for part in parts], axis=1)
    fine = Trajectory(points.times[:-1], points.alpha, points.sigma, states, estimates)
    return Screen(own, denoiser, given, fine, stop, tell, left)


def spread(counts: Sequence[int]) -> list[int]:
    """The middle one, the middles of both halves, and so on: the first few are of all sizes."""
    parts, found = [sorted(counts)], list[int]()
    while parts:
        part = parts.pop(0)
        if part:
            middle = len(part) // 2
            found.append(part[middle])
            parts += [part[:middle], part[middle + 1 :]]
    return found


def best_of_counts(found: Iterable[Screened]) -> list[Screened]:
    """The candidate of least error at each number of evaluations, fewest first."""
    best: dict[int, Screened] = {}
    for s in found:
        if s.evaluations not in best or s.error < best[s.evaluations].error:
            best[s.evaluations] = s
    return [best[count] for count in sorted(best)]


def shortlist(found: Sequence[Screened]) -> list[Candidate]:
    """The candidates to compile: the best at each count, and the Pareto front of network runs and error."""
    best = best_of_counts(found)
    paretos = [found[i] for i in front([(float(s.runs), s.error) for s in found])]
    others = [s for s in paretos if all(s is not b for b in best)][: max(0, MOST - len(best))]
    return [s.candidate for s in sorted([*best, *others], key=lambda s: (s.runs, s.error))]
