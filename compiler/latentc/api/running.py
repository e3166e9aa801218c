"""A bundle at work: sampled, verified, timed, served; and the search for the fewest steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from latentc.api._common import Source, lowered_spec, with_first_stage
from latentc.api.compiling import compile
from latentc.diagnostics import Diagnostic, DiagnosticError
from latentc.faults import runtime_errors

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike

    from latentc.export.triton import Deployment
    from latentc.measure.bench import Bench
    from latentc.tune.report import Tuned
    from latentc.verify.report import Report
    from latentc.weights.files import Files
    from latentc_runtime.sources import Condition


def sample(
    bundle: Path | str,
    classes: Sequence[int | str] | str | None = None,
    per_class: int = 1,
    seed: int = 0,
    *,
    given: Mapping[str, Any] | None = None,
    guidance: float | None = None,
    truncation: float | None = None,
    settings: Mapping[str, ArrayLike] | None = None,
    noise: Mapping[str, ArrayLike] | Path | str | None = None,
    count: int | None = None,
    program: str | None = None,
    steps: int | None = None,
    batch: int | None = None,
    device: str = "auto",
    backend: Literal["engine", "oracle", "torch"] = "engine",
    output: Path | str | None = None,
    raw: Path | str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Samples of a bundle, [B, ...]: `per_class` of each class in turn, of seeds `seed` and up.

    `classes`: numbers and names, or a text such as "0-9,tabby" or "all" (the default if samples have a class).
    `given`: the other conditions by name, arrays or files of them (.npy, or .npz with `value` and `mask`). `settings`:
    numbers by name; `guidance` and `truncation` are short for two of them. `noise`: arrays, or an .npz file of them, in
    place of what the seeds give. `count`: the number of samples, classes in turn. `program`: one of the bundle's.
    `backend`: the bundle's engine, or its spec and weights by the float64 oracle or the emitted PyTorch, which take the
    same noise. `output` is what to write: a file whose suffix names a format of the samples' medium (a grid has a row
    per class), or a folder. `raw` is an .npz file for the outputs as they are, by name (`samples`). Raises
    DiagnosticError: E0401 to E0403, E0601 to E0613, E0704, and E0412 if a file cannot be written.
    """
    from latentc.files import read_arrays, read_condition, write_arrays, write_files
    from latentc.measure.memory import available_memory
    from latentc_runtime import load
    from latentc_runtime.media import encoded
    from latentc_runtime.request import check_request

    if output is not None and raw is not None and Path(output).absolute() == Path(raw).absolute():
        message = f"pictures and arrays would both be written to {output}"
        raise DiagnosticError.of("E0412", message, help="give `--raw` a file of its own, such as samples.npz")
    noise = read_arrays(noise) if isinstance(noise, str | Path) else noise
    values = {n: read_condition(v, n) if isinstance(v, str | Path) else v for n, v in (given or {}).items()}
    short = {"guidance": guidance, "truncation": truncation}
    asked = {**(settings or {}), **{name: value for name, value in short.items() if value is not None}}
    with runtime_errors():
        pipe = load(bundle, device)
        entry = pipe.program(program, steps)
        wanted = _classes(pipe.manifest.conditions_of(entry), classes, per_class, count, values)
        made = entry.outputs[0].output
        # Beside each sample as it is, its picture and what the runtime keeps of it; before the system has to kill us.
        number = len(wanted) if wanted is not None else count or 1
        if number * (math.prod(made.shape) * 16 + 256) > available_memory():
            raise MemoryError
        request = check_request(pipe.manifest, entry, wanted, seed, values, asked, noise, count)
        if backend == "engine":
            outputs = pipe.run(request, batch, progress)
        else:
            from latentc.measure.subject import open_subject

            outputs = open_subject(bundle, device).run_request(request, backend)
        samples = next(iter(outputs.values()))
        # Made before anything is written, so that a mistake leaves no file behind.
        files = {} if output is None else encoded(samples, made, output, per_class)
    if raw is not None:
        write_arrays(raw, outputs)
    write_files(files)
    return samples


def _classes(
    conditions: Sequence[Condition],
    classes: Sequence[int | str] | str | None,
    per_class: int,
    count: int | None,
    given: Mapping[str, Any],
) -> list[int | str] | None:
    """The class of each sample; None if nobody asks for one. DiagnosticError E0704."""
    from latentc.ranges import classes_from_text
    from latentc_runtime.conditions import MOST_SAMPLES

    labels = [c for c in conditions if c.form == "label" and c.name not in given]
    if classes is None and not (len(labels) == 1 and labels[0].required):
        return None
    if classes is not None and not any(c.form == "label" for c in conditions):
        raise DiagnosticError(Diagnostic("E0704", "samples of this program have no class", help="leave `classes` out"))
    known, names = (labels[0].classes or 1, labels[0].names) if labels else (1, ())
    text = "all" if classes is None else classes
    chosen: list[int | str] = [*classes_from_text(text, known, names)] if isinstance(text, str) else list(text)
    if (number := len(chosen) * per_class if count is None else count) > MOST_SAMPLES:
        message = f"{number} samples in one request; at most {MOST_SAMPLES}"
        raise DiagnosticError.of("E0704", message, help="ask for them in several")
    if count is not None:
        return [chosen[i % len(chosen)] for i in range(count)] if chosen else []
    return [number for number in chosen for _ in range(per_class)]


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
    weights: Files,
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
    metric: str | None = None,
    device: str = "cpu",
    progress: Callable[[int, int, str], None] | None = None,
) -> Tuned:
    """Search for the fewest steps at a quality; see `latentc.tune`. Writes tuned.yaml, a table and plots.

    `budget`: texts such as "error=0.05", "frechet=1.1x" (times the spec's own), "evaluations=10", "seconds=0.2"; by
    default as good as the spec's own sampler. `evaluations`: which numbers of network evaluations to try. `samples`:
    how many candidates are judged on. `batch`: samples that are timed at once. `seconds`: after which nothing more is
    tried, half of it for the search. `metric`: FILE.py:FUNCTION that judges samples. DiagnosticError: E0501, E0502,
    E0706, E0708, E0714 to E0716, and those of `compile`.
    """
    from latentc.checkpoint import network_weights
    from latentc.engines import ENGINES
    from latentc.tune.budget import bound_from_text
    from latentc.tune.run import Options
    from latentc.tune.run import tune as run

    bounds = tuple(map(bound_from_text, budget))
    overrides, weights = with_first_stage(source, variant, overrides, weights)
    spec, lowered = lowered_spec(source, variant, overrides)
    tensors = network_weights(spec, lowered, weights, names, key, lowered.sampled)
    by_reference = ENGINES[spec.target.engine].plans is None  # plans hold their weights

    def compiled(file: Path, bundle: Path) -> None:
        # Forced: whether a quantised candidate is good and fast enough is what tuning finds out.
        compile(file, weights, bundle, names=names, key=key, by_reference=by_reference, force=True, run=False)

    options = Options(bounds, tuple(evaluations), samples, batch, seed, seconds, metric, device)
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
