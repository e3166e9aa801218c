"""The figures of `latentc evaluate` as a budget of quantisation: quantised samples against unquantised ones."""

from __future__ import annotations

from dataclasses import dataclass, replace

from latentc.components.contract import Lowered
from latentc.evaluate.bounds import Bound, bound_from_text
from latentc.evaluate.judge import Judge, Wanted, open_judge
from latentc.evaluate.metrics import Figures, figure_named, figures_from_text
from latentc.evaluate.sources import Generated
from latentc.export.bundle import program_outputs
from latentc.spec import Spec
from latentc.spec.sections import Budget
from latentc_runtime import Pipeline


@dataclass(frozen=True)
class Judged:
    """A figure of the quantised engine and of the unquantised one, with its bound."""

    bound: Bound
    figure: float
    own: float

    @property
    def holds(self) -> bool:
        return self.bound.excess(self.figure, self.own, self._higher) == 1.0

    @property
    def _higher(self) -> bool:
        figure = figure_named(self.bound.name)
        assert figure is not None
        return figure.better == "higher"

    def text(self) -> str:
        most = "at least" if self._higher else "at most"
        return (
            f"{self.bound.name} {self.figure:.4g} ({most} {self.bound.limit(self.own):.4g}, unquantised {self.own:.4g})"
        )


@dataclass(frozen=True)
class Gate:
    """The bounds of a budget and what measures them, on `count` samples of each engine."""

    bounds: tuple[Bound, ...]
    judge: Judge
    count: int
    seed: int

    def judged(self, quantised: Pipeline, plain: Pipeline) -> tuple[Judged, ...]:
        """Each bounded figure, on samples from the same noise."""
        ours, theirs = (self._figures(pipe) for pipe in (quantised, plain))
        return tuple(Judged(b, ours.get(b.name, float("nan")), theirs.get(b.name, float("nan"))) for b in self.bounds)

    def _figures(self, pipe: Pipeline) -> Figures:
        samples, labels = Generated(pipe, self.count, self.seed).chunk(0, self.count)
        return self.judge(samples, labels)


def gate_of(lowered: Lowered, spec: Spec, budget: Budget, seed: int) -> Gate | None:
    """The gate of a budget; None if it names no metrics. DiagnosticError E0714, E0715, E0720 to E0722."""
    if not budget.metrics:
        return None
    figures_from_text(budget.metrics)
    bounds = tuple(bound_from_text(f"{name}={value}") for name, value in budget.metrics.items())
    program = lowered.programs[0]
    fn = lowered.module.entry(program.entry)
    output = program_outputs(program, fn, [value.name for value in fn.outputs], spec)[0].output
    wanted = Wanted(tuple(budget.metrics), budget.features, None, budget.reference)
    judge = open_judge(wanted, spec.data, output, lambda done, total, stage: None)
    bounds = tuple(replace(bound, name=judge.named(bound.name)) for bound in bounds)
    return Gate(bounds, judge, budget.samples, seed)
