"""Budgets such as `error=0.05`, and the choice among the measured candidates."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from latentc.diagnostics import Diagnostic, DiagnosticError, nearest
from latentc.tune.candidates import Candidate

COSTS = ("evaluations", "seconds")


@dataclass(frozen=True)
class Bound:
    """A limit of one figure, if `relative` as a multiple of the figure of the spec's own sampler."""

    name: str
    value: float
    relative: bool = False

    def __str__(self) -> str:
        return f"{self.name}={self.value:g}{'x' if self.relative else ''}"


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
        if name == "evaluations":
            return float(self.evaluations)
        return self.seconds if name == "seconds" else self.quality[name]


def bound_from_text(text: str) -> Bound:
    """`error=0.05`, `seconds=0.2`, `frechet=1.1x` (times what the spec's own sampler has). DiagnosticError E0715."""
    name, equals, value = (part.strip() for part in text.partition("="))
    relative = value.endswith("x")
    try:
        number = float(value.removesuffix("x"))
    except ValueError:
        number = math.nan
    if not equals or not name or not math.isfinite(number) or number < 0:
        mend = "write `--budget error=0.05`, `seconds=0.2`, `evaluations=10`, or `frechet=1.1x`: times the spec's own"
        raise DiagnosticError(Diagnostic("E0715", f"`{text}` is no budget", help=mend))
    return Bound(name, number, relative)


def check_bounds(bounds: Sequence[Bound], qualities: Collection[str], noisy: bool) -> None:
    """DiagnosticError E0715 if the figure of a bound is not measured, or means nothing.

    `noisy`: the spec's own sampler is stochastic, so that its error is no measure.
    """
    known = [*COSTS, *qualities]
    for bound in bounds:
        if bound.relative and noisy and bound.name in ("error", "psnr"):
            message = f"the spec's own sampler is stochastic, so there is no reference trajectory for `{bound}`"
            raise DiagnosticError(Diagnostic("E0715", message, help=f"give a number: `--budget {bound.name}=…`"))
        if bound.name not in known:
            close = nearest(bound.name, known)
            mend = f"did you mean `{close}`?" if close else f"measured are {', '.join(known)}"
            raise DiagnosticError(Diagnostic("E0715", f"nothing measured is called `{bound.name}`", help=mend))


def excess(found: Measured, bound: Bound, own: Measured, higher: Collection[str]) -> float:
    """The factor by which a figure misses its bound; 1 within the bound."""
    limit = bound.value * (own.figure(bound.name) if bound.relative else 1.0)
    figure = found.figure(bound.name)
    if math.isnan(figure):
        return math.inf
    if bound.name in higher:
        figure, limit = limit, figure
    if figure <= limit:
        return 1.0
    return figure / limit if limit > 0 else math.inf


def chosen(
    measured: Sequence[Measured], own: Measured, bounds: Sequence[Bound], primary: str, higher: Collection[str]
) -> Measured | None:
    """The cheapest candidate within every bound, or the best by `primary` if only costs are bounded; None if none fits.

    Cost is measured in GFLOP, which unlike seconds are the same in every run.
    """
    fit = [m for m in measured if all(excess(m, bound, own, higher) == 1.0 for bound in bounds)]
    sign = -1.0 if primary in higher else 1.0
    if all(bound.name in COSTS for bound in bounds):
        return min(fit, key=lambda m: (sign * m.quality[primary], m.gflop), default=None)
    return min(fit, key=lambda m: (m.gflop, m.evaluations, sign * m.quality[primary]), default=None)


def none_fits(
    measured: Sequence[Measured], own: Measured, bounds: Sequence[Bound], higher: Collection[str], folder: object
) -> DiagnosticError:
    """E0716: the nearest candidate, and the best figure for each bound alone."""
    closest = min(measured, key=lambda m: max(excess(m, bound, own, higher) for bound in bounds))
    figures = ", ".join(f"{bound.name} {closest.figure(bound.name):.3g}" for bound in bounds)
    notes = [f"the nearest is {closest.candidate.name()} with {closest.evaluations} evaluations: {figures}"]
    for bound in bounds:
        pick = max if bound.name in higher else min
        best = pick(measured, key=lambda m, name=bound.name: m.figure(name))  # type: ignore[misc]
        notes.append(f"the best {bound.name} is {best.figure(bound.name):.3g}, with {best.evaluations} evaluations")
    asked = ", ".join(map(str, bounds))
    mend = f"relax the budget; the measured candidates are in {folder}"
    return DiagnosticError(
        Diagnostic("E0716", f"no candidate keeps the budget {asked}", notes=tuple(dict.fromkeys(notes)), help=mend)
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
