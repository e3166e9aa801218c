"""`tune`: the search for the fewest steps at a quality budget, from a spec and its weights to a folder.

One evaluation of the network is compiled once; samplers run over it in numpy, so that trying one costs its evaluations
(screen.py). The best candidates are compiled as `latentc compile` would, timed, and judged on samples that the search
never saw (compiled.py); the budget chooses among those (budget.py).
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from latentc.components.contract import Lowered, Network, Port
from latentc.components.samplers.base import ArraySampler, parameterization_of
from latentc.diagnostics import Diagnostic, DiagnosticError
from latentc.export.folder import new_folder
from latentc.lower import lower
from latentc.measure.metrics import psnr
from latentc.passes.feature_cache_methods import block_lists
from latentc.spec import resolved_yaml
from latentc.spec.schema import Spec
from latentc.tune.budget import COSTS, Bound, Measured, check_bounds, chosen, none_fits
from latentc.tune.candidates import COUNTS, Candidate, evaluations, reusing
from latentc.tune.compiled import Compile, Compiling, labels_of
from latentc.tune.denoiser import Array, Denoiser, open_denoiser
from latentc.tune.plot import need_matplotlib, write_plot
from latentc.tune.quality import Judge, Qualities, UserJudge, error
from latentc.tune.real import frechet_to, real_images
from latentc.tune.report import Tuned, candidates_csv
from latentc.tune.screen import FINE, fine_sampler, open_screen, screen_all, shortlist
from latentc.tune.write import base_name, candidate_yaml, check_written
from latentc.weights import Expr
from latentc_runtime.noise import normals

MARK = "candidates.csv"  # marks a folder as results of tuning, which may be replaced
TRAJECTORY_BYTES = 1 << 29  # most memory for the fine solution of the search
SEARCH = 0.5  # share of the allowed time for the search; the rest is for compiling and measuring
_JUDGED = 1 << 32  # offset of the seeds on which candidates are judged from those of the search

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Options:
    """How to search.

    `bounds`: the budget. `counts`: network evaluations to try. `samples`: on which compiled candidates are judged; the
    search uses a quarter as many, 16 to 64 (fewer for large data). `batch`: samples timed at once. `seconds`: after
    which nothing more is begun; the search gets half of them. `metric`: FILE.py:FUNCTION of the user.
    """

    bounds: tuple[Bound, ...] = ()
    counts: tuple[int, ...] = ()
    samples: int = 256
    batch: int = 1
    seed: int = 0
    seconds: float | None = None
    metric: str | None = None
    device: str = "cpu"


def tune(
    spec: Spec,
    source: str | Path | None,
    weights: Mapping[str, Mapping[str, Expr]],
    compile: Compile,
    folder: Path,
    options: Options,
    progress: Progress | None = None,
) -> Tuned:
    """Searches the samplers of `spec` and writes `folder`: tuned.yaml, candidates.csv, pareto.svg and pareto.png.

    `source` is what tuned.yaml extends; None for a spec that is no file as it stands, which is then written beside it.
    `compile(file, bundle)` compiles a spec file with the spec's weights. The folder appears whole or not at all. Raises
    DiagnosticError: E0501, E0502, E0608, E0706, E0708, E0714 to E0716, and what compiling raises.
    """
    need_matplotlib()
    own = _own_sampler(spec)
    if not 0 <= options.seed < 1 << 64:
        mend = "seeds are whole numbers from 0 to 2^64 - 1"
        raise DiagnosticError(Diagnostic("E0608", f"there is no seed {options.seed}", help=mend))
    tell = progress or (lambda done, total, what: None)
    begun, allowed = time.monotonic(), math.inf if options.seconds is None else options.seconds
    stopped = False

    def stop() -> bool:
        nonlocal stopped
        stopped = stopped or time.monotonic() - begun > SEARCH * allowed
        return stopped

    def late() -> bool:
        return time.monotonic() - begun > allowed

    with new_folder(folder, "folder of tuning results", MARK) as target:
        lowered = lower(spec)
        denoiser = open_denoiser(spec, weights, options.device)
        judging = _judging(spec, own, lowered, denoiser, options)
        tell(0, 1, "the fine solution")
        screen = open_screen(own, denoiser, denoiser.given(options.seed, _few(options, denoiser)), stop)
        coarse = denoiser.samples(fine_sampler(own, denoiser.target, len(screen.fine.t) // 2), screen.given)
        found = screen_all(screen, _counts(own, denoiser, options), tell)
        listed = shortlist(found)
        listed += reusing(listed, spec, _small_networks(lowered), _depth(lowered))
        exact = fine_sampler(own, denoiser.target)
        del denoiser
        results = _measured_all(spec, own, listed, exact, compile, judging, options, tell, late)
        first = results[0]
        picked = chosen(results, first, judging.bounds, judging.primary, judging.higher)
        tuned = Tuned(
            name=spec.name,
            device=f"{options.device} ({spec.target.engine}, {spec.target.precision})",
            folder=folder,
            batch=options.batch,
            samples=options.samples,
            screened=tuple(found),
            measured=tuple(sorted(results, key=lambda m: (m.gflop, m.evaluations))),
            own=first,
            chosen=picked,
            bounds=judging.bounds,
            primary=judging.primary,
            higher=frozenset(judging.higher),
            reference_error=error(coarse, screen.fine.samples),
            stopped=stopped,
            left=1 + len(listed) - len(results),
        )
        _write(tuned, spec, own, source, target)
    if picked is None:
        raise none_fits(results, first, judging.bounds, judging.higher, folder)
    return tuned


def _own_sampler(spec: Spec) -> ArraySampler:
    """The spec's sampler. DiagnosticError E0708 if its steps cannot be searched."""
    if isinstance(spec.sampler, ArraySampler) and parameterization_of(spec.objective) is not None:
        refused = [(path, term) for path, term in spec.sampler.terms() if term.OF_SCORE]
        if not refused:
            return spec.sampler
        path, term = refused[0]
        message = f"tuning does not support guidance by `{term.kind}`"
        raise DiagnosticError(Diagnostic("E0708", message, spec.span("sampler", *path), help="remove this guidance"))
    message = f"the spec `{spec.name}` has no sampler whose steps can be fewer"
    mend = "tuning is for diffusion and flow, such as `sampler: {kind: ddim, steps: 50}`; tokens are drawn one by one"
    raise DiagnosticError(Diagnostic("E0708", message, spec.span("sampler"), help=mend))


def _few(options: Options, denoiser: Denoiser) -> int:
    """Number of samples of the search: fewer if their whole trajectory, states and estimates, would be large."""
    room = TRAJECTORY_BYTES // (2 * FINE * 4 * math.prod(denoiser.shape))
    return int(min(max(16, min(64, options.samples // 4)), max(1, room)))


def _small_networks(lowered: Lowered) -> list[str]:
    """Networks that can replace `main` in some steps."""
    main = lowered.networks["main"]
    return [
        name
        for name, network in lowered.networks.items()
        if name != "main" and network.provides == main.provides and _inputs(network) == _inputs(main)
    ]


def _depth(lowered: Lowered) -> int:
    """Number of blocks of `main`, if they are one list; else 0."""
    lists = block_lists(lowered.module.functions[lowered.networks["main"].methods["forward"].function])
    return len(next(iter(lists.values()))) if len(lists) == 1 else 0


def _inputs(network: Network) -> tuple[Port, ...]:
    return network.methods["forward"].inputs


def _counts(own: ArraySampler, denoiser: Denoiser, options: Options) -> tuple[int, ...]:
    """Numbers of evaluations to try: those asked for, else all that are fewer than the spec's own and within budget."""
    if options.counts:
        return options.counts
    most = float(evaluations(own.table(denoiser.target)) - 1)
    limits = [bound.value for bound in options.bounds if bound.name == "evaluations" and not bound.relative]
    return tuple(count for count in COUNTS if count <= min([most, *limits]))


# ---- judging


@dataclass(frozen=True)
class _Judging:
    """How candidates are judged: the bounds, the quality that ranks them, and the qualities where higher is better."""

    bounds: tuple[Bound, ...]
    primary: str
    higher: set[str]
    judges: tuple[Judge, ...]

    def of(self, exact: Array) -> Judge:
        """The judge of samples whose exact solutions are known."""

        def judge(samples: Array, classes: Array | None) -> Qualities:
            found = {"error": error(samples, exact), "psnr": psnr(samples, exact)}
            for other in self.judges:
                found.update(other(samples, classes))
            return found

        return judge


def _judging(spec: Spec, own: ArraySampler, lowered: Lowered, denoiser: Denoiser, options: Options) -> _Judging:
    """The judges, tried out on noise before the search begins. DiagnosticError E0714, E0715."""
    judges: list[Judge] = []
    real = real_images(spec.data)
    if real is not None and len(real) > 1:
        distance = frechet_to(real)
        judges.append(lambda samples, classes: {"frechet": distance(samples)})
    names = ["error", "psnr", *(["frechet"] if judges else [])]
    higher, primary = {"psnr"}, "error"
    if options.metric is not None:
        user = UserJudge(options.metric)
        judges.append(user)
        given = denoiser.given(options.seed, max(64, min(options.samples, 256)))
        made = lowered.module.entry(lowered.programs[0].entry).outputs[0].type
        noise = normals(given.seeds, "x", tuple(int(d) for d in made.shape[1:]))  # type: ignore[arg-type]
        figures = list(user(noise, labels_of(given, lowered.conditions)))
        names, primary = list(dict.fromkeys([*names, *figures])), figures[0]
        higher |= user.higher
    noisy = any(part.stochastic for part in own.table(denoiser.target).parts())
    # As good as the spec's own sampler; the error of a stochastic one means nothing.
    usual = Bound("error", 0.05) if primary == "error" and noisy else Bound(primary, 1.0, relative=True)
    bounds = options.bounds or (usual,)
    check_bounds(bounds, names, noisy)
    return _Judging(
        bounds,
        next((bound.name for bound in bounds if bound.name not in COSTS), primary),
        higher,
        tuple(judges),
    )


# ---- measuring and writing


def _measured_all(
    spec: Spec,
    own: ArraySampler,
    candidates: Sequence[Candidate],
    exact: ArraySampler,
    compile: Compile,
    judging: _Judging,
    options: Options,
    tell: Progress,
    late: Callable[[], bool],
) -> list[Measured]:
    """The spec's own sampler, then the candidates, compiled and measured one after the other until it is `late`.

    They are judged on seeds that the search never saw, by the samples of `exact` from the same noise. The order is
    cheapest first, candidates that reuse work last.
    """
    every = [Candidate(own, "spec"), *candidates]
    results: list[Measured] = []
    with tempfile.TemporaryDirectory(prefix="latentc-") as name:
        base = Path(name, "base.yaml")
        base.write_text(resolved_yaml(spec), encoding="utf-8")
        seed = (options.seed + _JUDGED) % (1 << 64)
        compiling = Compiling(base, own, compile, seed, options.samples, options.batch, options.device)
        tell(0, len(every), "the fine solution of the samples to judge")
        judge = judging.of(compiling.samples(exact))
        for i, candidate in enumerate(every):
            if results and late():
                break
            tell(i, len(every), f"compiling and measuring {candidate.name()}, {candidate.sampler.steps} steps")
            results.append(compiling.measured(candidate, judge))
        tell(len(every), len(every), "done")
    return results


def _write(tuned: Tuned, spec: Spec, own: ArraySampler, source: str | Path | None, target: Path) -> None:
    (target / MARK).write_text(candidates_csv(tuned), encoding="utf-8")
    write_plot(tuned, target)
    if tuned.chosen is None:
        return
    # The relative way from the folder is that from `target`, which stands beside it.
    base = None if source is None else base_name(source, target)
    if base is None:
        base = "base.yaml"
        (target / base).write_text(resolved_yaml(spec), encoding="utf-8")
    candidate = tuned.chosen.candidate
    asked = ", ".join(map(str, tuned.bounds))
    said = f"# Chosen by `latentc tune` for {asked}: {candidate.name()}, {tuned.chosen.evaluations} evaluations.\n"
    (target / "tuned.yaml").write_text(said + candidate_yaml(candidate, base, own), encoding="utf-8")
    check_written(target / "tuned.yaml", candidate)


__all__ = ["MARK", "Options", "tune"]
