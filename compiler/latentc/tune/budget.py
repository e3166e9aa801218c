"""Budgets such as `error=0.05`, and the choice among the measured candidates."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from latentc.diagnostics import Diagnostic, DiagnosticError, nearest
from latentc.evaluate.bounds import Bound
from latentc.tune.candidates import Candidate

COSTS = ("evaluations", "seconds")


@dataclass(frozen=True)
class Measured:
    """A compiled candidate: network evaluations and GFLOP per sample, seconds per batch, and the quality of samples."""

    candidate: Candidate
    evaluations: int
    gflop: float
    seconds: float
    quality: Mapping[str, float]

    def figure(self, name: str) -> float:
        """A cost or a quality by its name."""
        costs = {"evaluations": float(self.evaluations), "seconds": self.seconds}
        return costs[name] if name in costs else self.quality[name]


def check_bounds(bounds: Sequence[Bound], qualities: Collection[str], stochastic: bool) -> None:
    """DiagnosticError E0715 if the figure of a bound is not measured, or means nothing.

    `stochastic`: the spec's own sampler is, so its distance from the exact solution says nothing.
    """
    known = [*COSTS, *qualities]
    for bound in bounds:
        if bound.relative and stochastic and bound.name in ("error", "psnr"):
            message = f"the spec's own sampler is stochastic, so there is no reference trajectory for `{bound}`"
            raise DiagnosticError(Diagnostic("E0715", message, help=f"give a number: `--budget {bound.name}=…`"))
        if bound.name not in known:
            close = nearest(bound.name, known)
            mend = f"did you mean `{close}`?" if close else f"measured are {', '.join(known)}"
            raise DiagnosticError(Diagnostic("E0715", f"there is no figure called `{bound.name}`", help=mend))


@dataclass(frozen=True)
class Goal:
    """Criteria of candidates: the budget, the quality `primary` that ranks, and those where higher is better."""

    bounds: tuple[Bound, ...]
    primary: str
    higher: frozenset[str]

    def __str__(self) -> str:
        return ", ".join(map(str, self.bounds))

    def excess(self, found: Measured, bound: Bound, own: Measured) -> float:
        """The factor by which a figure misses its bound; 1 within the bound."""
        return bound.excess(found.figure(bound.name), own.figure(bound.name), bound.name in self.higher)

    def chosen(self, measured: Sequence[Measured], own: Measured) -> Measured | None:
        """The cheapest candidate within every bound, or the best by `primary` if only costs are bounded.

        None if no candidate is. Cost is measured in GFLOP, which unlike seconds are the same in every run.
        """
        fit = [m for m in measured if all(self.excess(m, bound, own) == 1.0 for bound in self.bounds)]
        sign = -1.0 if self.primary in self.higher else 1.0
        if all(bound.name in COSTS for bound in self.bounds):
            return min(fit, key=lambda m: (sign * m.quality[self.primary], m.gflop), default=None)
        return min(fit, key=lambda m: (m.gflop, m.evaluations, sign * m.quality[self.primary]), default=None)

    def missed(self, measured: Sequence[Measured], own: Measured, folder: object) -> DiagnosticError:
        """E0716: the nearest candidate, and the best figure for each bound alone."""
        closest = min(measured, key=lambda m: max(self.excess(m, bound, own) for bound in self.bounds))
        figures = ", ".join(f"{bound.name} {closest.figure(bound.name):.3g}" for bound in self.bounds)
        notes = [f"the nearest is {closest.candidate.name()} with {closest.evaluations} evaluations: {figures}"]
        for name in dict.fromkeys(bound.name for bound in self.bounds):
            best = sorted(measured, key=lambda m: m.figure(name))[-1 if name in self.higher else 0]
            notes.append(f"the best {name} is {best.figure(name):.3g}, with {best.evaluations} evaluations")
        mend = f"relax the budget; the measured candidates are in {folder}"
        return DiagnosticError(
            Diagnostic("E0716", f"no candidate meets the budget {self}", notes=tuple(notes), help=mend)
        )


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the Pareto front of points (cost, error), by cost; the first of equal points."""
    found: list[int] = []
    least = math.inf
    for i in sorted(range(len(points)), key=lambda i: points[i]):
        if points[i][1] < least:
            found.append(i)
            least = points[i][1]
    return found
