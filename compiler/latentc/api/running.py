"""A bundle at work: verified, timed, deployed; and the search for the fewest steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from latentc.api._common import Source, lowered_spec, with_first_stage
from latentc.api.compiling import compile
from latentc.diagnostics.faults import runtime_errors

if TYPE_CHECKING:
    from latentc.export.triton import Deployment
    from latentc.measure.bench import Bench
    from latentc.tune.report import Tuned
    from latentc.verify.report import Report
    from latentc.weights.in_memory import Weights


def verify(
    bundle: Path | str,
    budget: float | None = None,
    device: str = "cpu",
    seed: int = 0,
    progress: Callable[[int, int, str], None] | None = None,
) -> Report:
    """Compare a bundle's engines with its spec, by the oracle and the emitted PyTorch; see `latentc.verify.run`.

    `budget`: seconds that it may take. Raises DiagnosticError: E0601 to E0613, E0706.
    """
    from latentc.verify.run import BUDGET
    from latentc.verify.run import verify as run

    with runtime_errors():
        return run(bundle, budget=BUDGET if budget is None else budget, device=device, seed=seed, progress=progress)


def verify_training(
    source: Source,
    weights: Weights | None = None,
    variant: str | None = None,
    overrides: Sequence[str] = (),
    names: str | None = None,
    key: str | None = None,
    budget: float | None = None,
    seed: int = 0,
    progress: Callable[[int, int, str], None] | None = None,
) -> Report:
    """Compare losses, gradients and methods of a spec by the oracle, the emitted PyTorch and the installed CPU engines.

    `source`: a spec, or a bundle, whose spec is taken. `weights` of all networks, by default drawn with `seed`;
    `budget`: seconds that it may take. See `latentc.verify.training`. Raises DiagnosticError: E0401 to E0413, E0706.
    """
    from latentc.checkpoint import arrays, network_weights
    from latentc.components.fields import FIRST_STAGE
    from latentc.verify.run import BUDGET
    from latentc.verify.training import verify_training as run

    if (Path(source) / "manifest.json").is_file():
        source = Path(source) / "spec.yaml"
    spec, lowered = lowered_spec(source, variant, overrides)
    own = None
    if weights:
        wanted = [name for name in lowered.networks if name != FIRST_STAGE]
        own = {n: arrays(w) for n, w in network_weights(spec, lowered, weights, names, key, wanted).items()}
    with runtime_errors():
        limit = BUDGET if budget is None else budget
        return run(spec, lowered, str(source), own, budget=limit, seed=seed, progress=progress)


def bench(
    bundle: Path | str,
    batches: Sequence[int] = (1, 8),
    steps: Sequence[int] = (),
    compare: bool = False,
    seconds: float = 5.0,
    device: str = "cpu",
    progress: Callable[[int, int, str], None] | None = None,
) -> Bench:
    """Time a bundle's samplers; see `latentc.measure.bench`. `compare`: beside the emitted PyTorch.

    `seconds` for each case. Raises DiagnosticError: E0601 to E0613, E0706.
    """
    from latentc.measure.bench import bench as run

    with runtime_errors():
        return run(
            bundle, batches=batches, steps=steps, compare=compare, seconds=seconds, device=device, progress=progress
        )


def tune(
    source: Source,
    weights: Weights | None,
    folder: Path | str,
    budget: Sequence[str] = (),
    variant: str | None = None,
    overrides: Sequence[str] = (),
    names: str | None = None,
    key: str | None = None,
    evaluations: Sequence[int] = (),
    samples: int = 256,
    batch: int = 1,
    seed: int = 0,
    seconds: float | None = None,
    metric: str | Sequence[str] = (),
    device: str = "cpu",
    progress: Callable[[int, int, str], None] | None = None,
    features: Sequence[str] = (),
    reference: Path | str | None = None,
) -> Tuned:
    """Search for the fewest steps at a quality; see `latentc.tune`. Writes tuned.yaml, a table and plots.

    `budget`: texts such as "error=0.05", "fd=1.1x" (times the spec's own), "evaluations=10", "seconds=0.2"; by
    default as good as the spec's own sampler. `evaluations`: which numbers of network evaluations to try. `samples`:
    how many candidates are judged on. `batch`: samples that are timed at once. `seconds`: after which nothing more is
    tried, half of it for the search. `metric`: figures of `evaluate` by name (default `fd` and those of `budget`), or
    FILE.py:FUNCTION that judges samples. `features` and `reference`: what these compare, as `evaluate` takes them.
    DiagnosticError: E0501, E0502, E0706, E0708, E0714 to E0716, E0720 to E0722, and those of `compile`.
    """
    from latentc.checkpoint import network_weights
    from latentc.engines import ENGINES
    from latentc.evaluate.bounds import bound_from_text
    from latentc.tune.run import Options
    from latentc.tune.run import tune as run

    bounds = tuple(map(bound_from_text, budget))
    overrides, weights = with_first_stage(source, variant, overrides, weights)
    spec, lowered = lowered_spec(source, variant, overrides)
    tensors = network_weights(spec, lowered, weights, names, key, lowered.sampled)
    by_reference = ENGINES[spec.target.engine].plans is None  # plans hold their weights
    by_reference &= not isinstance(weights, Mapping)

    def compiled(file: Path, bundle: Path) -> None:
        # Forced, because tuning itself finds out whether a quantised candidate is good and fast enough.
        compile(file, weights, bundle, names=names, key=key, by_reference=by_reference, force=True, run=False)

    metrics = (metric,) if isinstance(metric, str) else tuple(metric)
    compared = (tuple(features), None if reference is None else str(reference))
    options = Options(bounds, tuple(evaluations), samples, batch, seed, seconds, metrics, *compared, device)
    plain = None if variant is not None or overrides else source
    with runtime_errors():
        return run(spec, plain, tensors, compiled, Path(folder), options, progress)


def deploy_triton(
    bundle: Path | str,
    repository: Path | str,
    kind: Literal["auto", "ensemble", "sampler"] = "auto",
    name: str | None = None,
    steps: int | None = None,
    program: str | None = None,
    instances: int = 1,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    delay: int = 1000,
    threads: int | None = None,
) -> Deployment:
    """Write a bundle as a model repository of NVIDIA Triton; see `latentc.export.triton`.

    `program` and `steps`: which of its programs (the default one). `instances` and `device` are those of the model that
    computes, `delay` the microseconds that a request may wait for others to share its batch, `threads` the CPU threads
    of an instance.
    Raises DiagnosticError: E0501, E0502, E0507, E0601 to E0605, E0609, E0611.
    """
    from latentc.export.triton import Serving, repository_from_bundle
    from latentc_runtime.bundle import open_bundle
    from latentc_runtime.request import program_entry

    with runtime_errors():
        opened = open_bundle(bundle)
        entry = program_entry(opened.manifest, program, steps)
    serving = Serving(instances, device, delay, threads)
    return repository_from_bundle(opened, entry, Path(repository), kind, name, serving)
