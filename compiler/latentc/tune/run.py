"""`tune`: the search for the fewest steps at a quality budget, from a spec and its weights to a folder.

One evaluation of the network is compiled once; samplers run over it in numpy, so that trying one costs its evaluations
(denoising.py). Of a sampler of masked tokens it is the program, whose tables are inputs (masked.py). The best
candidates are compiled as `latentc compile` would, timed, and judged on samples that the search never saw
(compiled.py); the budget chooses among those (budget.py).
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from latentc.components.sampler import wrappers
from latentc.components.samplers._masked import ListedSampler
from latentc.components.samplers.base import ArraySampler, parameterization_of
from latentc.diagnostics import Diagnostic, DiagnosticError
from latentc.evaluate.bounds import Bound
from latentc.evaluate.judge import Wanted, open_judge
from latentc.evaluate.metrics import Figures, figure_named, figures_from_text
from latentc.evaluate.sources import labels_of
from latentc.export.bundle import program_outputs
from latentc.export.folder import new_folder
from latentc.measure.metrics import mean_distance, psnr
from latentc.measure.plots import need_matplotlib
from latentc.spec import resolved_yaml
from latentc.spec.load import base_of
from latentc.spec.schema import Spec
from latentc.tune.budget import COSTS, Goal, Measured, check_bounds
from latentc.tune.candidates import Candidate, Tunable
from latentc.tune.compiled import Compile, Compiling
from latentc.tune.denoising import FEWEST, Denoising
from latentc.tune.found import Found, Search, Task
from latentc.tune.masked import Masked
from latentc.tune.options import Options
from latentc.tune.plot import write_plot
from latentc.tune.quality import Array, Figure, Judge, Named, UserJudge
from latentc.tune.report import Tuned
from latentc.tune.screen import FINE, Tell
from latentc.weights import Expr
from latentc_runtime.noise import normals

MARK = "candidates.csv"  # marks a folder as tuning results, which may be replaced
SEARCH = 0.5  # fraction of the allowed time for the search; the rest is for compiling and measuring
FEW = 8  # candidates whose samples half the time for compiling and measuring should suffice for
_JUDGED = 1 << 32  # offset between the seeds of the search and those on which candidates are judged


def tune(
    spec: Spec,
    source: str | Path | None,
    weights: Mapping[str, Mapping[str, Expr]],
    compile: Compile,
    folder: Path,
    options: Options,
    progress: Tell | None = None,
) -> Tuned:
    """Searches the samplers of `spec` and writes `folder`: tuned.yaml, candidates.csv, pareto.svg and pareto.png.

    `source`: what tuned.yaml extends; None for a spec that differs from its file, which is then written beside it.
    `compile(file, bundle)` compiles a spec file with the spec's weights. The folder appears whole or not at all. Raises
    DiagnosticError: E0501, E0502, E0608, E0706, E0708, E0714 to E0716, and what compiling raises.
    """
    need_matplotlib()
    kind, own = _kind(spec)
    if not 0 <= options.seed < 1 << 64:
        mend = "seeds are integers from 0 to 2^64 - 1"
        raise DiagnosticError(Diagnostic("E0608", f"seed {options.seed} is out of range", help=mend))
    tell = progress or (lambda done, total, stage: None)
    begun, allowed = time.monotonic(), math.inf if options.seconds is None else options.seconds
    stopped = False

    def stop() -> bool:
        nonlocal stopped
        stopped = stopped or time.monotonic() - begun > SEARCH * allowed
        return stopped

    def left() -> float:
        return begun + SEARCH * allowed - time.monotonic()

    with new_folder(folder, "folder of tuning results", MARK) as target:
        search: Search = kind(own, Task(spec, weights, options, stop, tell, left))
        judges = _judges(spec, search, options)
        goal = _goal(search, spec, options, judges)
        found = search.run(_figure(goal, judges))
        candidates, exact = found.candidates, found.exact
        wanted = options.samples
        options = replace(options, samples=_judged(options.samples, own, found, begun + allowed - time.monotonic()))
        del search  # the engine and the trajectory
        measured = _measured(
            spec, [Candidate(own, "spec"), *candidates], exact, compile, judges, options, tell, begun + allowed
        )
        chosen = goal.chosen(measured, measured[0])
        tuned = Tuned(
            name=spec.name,
            device=f"{options.device} ({spec.target.engine}, {spec.target.precision})",
            folder=folder,
            batch=options.batch,
            samples=options.samples,
            screened=found.screened,
            measured=tuple(sorted(measured, key=lambda m: (m.gflop, m.evaluations))),
            own=measured[0],
            chosen=chosen,
            goal=goal,
            reference_error=found.reference_error,
            stopped=stopped,
            left=1 + len(candidates) - len(measured),
            wanted=wanted,
        )
        (target / MARK).write_text(tuned.csv(), encoding="utf-8")
        write_plot(tuned, target)
        if chosen is not None:
            heading = f"# Chosen by `latentc tune` for {goal}: {chosen.candidate.name()}, "
            heading += f"{chosen.evaluations} evaluations.\n"
            chosen.candidate.write(target / "tuned.yaml", base_of(spec, source, target), own, heading)
    if chosen is None:
        raise goal.missed(measured, measured[0], folder)
    return tuned


def _kind(spec: Spec) -> tuple[Any, Any]:
    """The search of the spec's sampler, and that sampler. DiagnosticError E0708 if its steps cannot be searched."""
    own = spec.sampler
    refused: list[tuple[tuple[str | int, ...], str]] = []
    if isinstance(own, ArraySampler) and parameterization_of(spec.objective) is not None:
        refused = [(("sampler", *path), f"guidance by `{term.kind}`") for path, term in own.terms() if term.OF_SCORE]
        around = [(i, wrapper) for i, wrapper in enumerate(wrappers(spec)) if wrapper.around]
        refused += [(("programs", i), f"program `{wrapper.kind}`") for i, wrapper in around]
        if not refused:
            return Denoising, own
    elif isinstance(own, ListedSampler):
        if own.recalls(1 << 16) is not None:
            refused = [(("sampler", "reuse"), "steps that reuse what another computed")]
        if not refused:
            return Masked, own
    if refused:
        path, what = refused[0]
        message = f"tuning does not support {what}"
        raise DiagnosticError(Diagnostic("E0708", message, spec.span(*path), help="remove it"))
    message = f"the spec `{spec.name}` has no sampler that denoises in steps, or reveals masked tokens by confidence"
    mend = "tuning supports samplers of diffusion and flow, and `confidence`; other samplers draw tokens one by one"
    raise DiagnosticError(Diagnostic("E0708", message, spec.span("sampler"), help=mend))


# ---- judging and measuring


def _judged(samples: int, own: Tunable, found: Found, left: float) -> int:
    """The number of samples to judge: fewer if drawing them would take more than half of the time left.

    Exactly, by the spec's own sampler and by a few candidates.
    """
    tried = sorted(s.evaluations for s in found.screened)
    evaluations = FINE + own.steps + sum(tried[:: max(1, len(tried) // FEW)])
    if found.seconds * evaluations * samples <= left / 2:
        return samples
    return max(FEWEST, min(samples, int(left / 2 / (found.seconds * evaluations)))) if found.seconds else samples


def _judges(spec: Spec, search: Search, options: Options) -> list[Judge]:
    """Metrics of samples besides the error against the exact solution, those of the user last.

    Without `metrics` it is the Fréchet distance to the data, if these can be read here. DiagnosticError E0401, E0714,
    E0720 to E0722.
    """
    program = search.lowered.programs[0]
    fn = search.lowered.module.entry(program.entry)
    output = program_outputs(program, fn, [value.name for value in fn.outputs], spec)[0].output
    bounded = [bound.name for bound in options.bounds if figure_named(bound.name) is not None]
    files = [name for name in options.metrics if ".py" in name]
    names = figures_from_text([*(name for name in options.metrics if name not in files), *bounded])
    wanted = Wanted(tuple(names) or ("fd",), options.features, None, options.reference, device=options.device)
    judges: list[Judge] = []
    try:
        judges.append(Named(open_judge(wanted, spec.data, output, lambda done, total, stage: None), output))
    except DiagnosticError:
        if names or options.features or options.reference is not None or not (search.exact or files):
            raise
    return [*judges, *map(UserJudge, files)]


def _goal(search: Search, spec: Spec, options: Options, judges: Sequence[Judge]) -> Goal:
    """The budget; the judges are tried on noise, before the search begins. DiagnosticError E0714, E0715."""
    lowered = search.lowered
    given = search.given(options.seed, max(64, min(options.samples, 256)))
    made = lowered.module.entry(lowered.programs[0].entry).outputs[0].type
    noise = normals(given.seeds, "x", tuple(int(d) for d in made.shape[1:]))  # type: ignore[arg-type]
    if made.dtype == "i64":
        assert spec.data.tokens is not None
        noise = np.abs(noise * 1e3).astype(np.int64) % spec.data.tokens.vocabulary
    exact = ["error", "psnr"] if search.exact else []
    names, higher, primary = list(exact), {*exact[1:]}, "error" if search.exact else ""
    for judge in judges:
        figures = list(judge(noise, labels_of(given, lowered.conditions)))
        names += [name for name in figures if name not in names]
        higher |= judge.higher
        if options.metrics or not primary:
            primary = figures[0]
    # As good as the spec's own sampler; the error of a stochastic sampler has no meaning.
    without = primary == "error" and search.stochastic
    default = Bound("error", 0.05) if without else Bound(primary, 1.0, relative=True)
    bounds = options.bounds or (default,)
    for judge in judges:
        if isinstance(judge, Named):
            bounds = tuple(replace(bound, name=judge.named(bound.name)) for bound in bounds)
    check_bounds(bounds, names, search.stochastic)
    primary = next((bound.name for bound in bounds if bound.name not in COSTS), primary)
    return Goal(bounds, primary, frozenset(higher))


def _figure(goal: Goal, judges: Sequence[Judge]) -> Figure:
    """The score that ranks candidates; lower is better."""
    sign = -1.0 if goal.primary in goal.higher else 1.0

    def figure(samples: Array, classes: Array | None) -> float:
        return sign * next(found[goal.primary] for j in judges if goal.primary in (found := j(samples, classes)))

    return figure


def _measured(
    spec: Spec,
    candidates: Sequence[Candidate],
    exact: Tunable | None,
    compile: Compile,
    judges: Sequence[Judge],
    options: Options,
    tell: Tell,
    end: float,
) -> list[Measured]:
    """The first candidate, then the others, compiled and measured one after the other until the clock says `end`.

    None but the cheapest is begun that would end later if it took as long as the one before. They are judged on seeds
    that the search never saw, by the samples of `exact` from the same noise. The order is cheapest first, candidates
    that reuse work last.
    """
    results: list[Measured] = []
    with tempfile.TemporaryDirectory(prefix="latentc-") as name:
        base = Path(name, "base.yaml")
        base.write_text(resolved_yaml(spec), encoding="utf-8")
        seed = (options.seed + _JUDGED) % (1 << 64)
        own = candidates[0].sampler
        compiling = Compiling(base, own, compile, seed, options.samples, options.batch, options.device)
        if exact is not None:
            tell(0, len(candidates), "the reference solution of the samples to judge")
        solution = None if exact is None else compiling.samples(exact)

        def judge(samples: Array, classes: Array | None) -> Figures:
            figures: Figures = {}
            if solution is not None:
                figures = {"error": mean_distance(samples, solution), "psnr": psnr(samples, solution)}
            for other in judges:
                figures |= other(samples, classes)
            return figures

        last = 0.0  # seconds of the last candidate: the next is as long at least
        for i, candidate in enumerate(candidates):
            now = time.monotonic()
            if len(results) > 1 and now + last > end:
                break
            tell(i, len(candidates), f"compiling and measuring {candidate.name()}, {candidate.sampler.steps} steps")
            results.append(compiling.measured(candidate, judge))
            last = time.monotonic() - now if i else 0.0  # the spec's own is longer than most
        tell(len(candidates), len(candidates), "done")
    return results
