"""`evaluate`: the figures of a bundle's samples, or of samples in a file, against a reference.

Sample i has seed `seed` + i, whatever the chunk or the worker, and features of finished chunks are kept (store.py), so
an interrupted evaluation goes on where it stopped.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from latentc.diagnostics import DiagnosticError
from latentc.evaluate.judge import Judge, Wanted, open_judge
from latentc.evaluate.pictures import AXES
from latentc.evaluate.results import Evaluation, Run
from latentc.evaluate.sources import Generated, InFiles, SampleSource
from latentc.evaluate.store import Tell
from latentc.samples.job import Executor
from latentc.spec import load_spec
from latentc_runtime import load
from latentc_runtime.bundle import MANIFEST
from latentc_runtime.manifest import Output
from latentc_runtime.request import all_settings

MOST = 10_000  # default number of generated samples


@dataclass(frozen=True)
class Options:
    """How to evaluate.

    `count`: samples to draw; None: as many as the reference has, at most MOST. `guidance`: scales to compare; none: the
    bundle's default. `settings`: others by name, the same for all. `program` and `steps`: which program.
    `executor`: what draws chunks of samples in place of this process.
    """

    wanted: Wanted = field(default_factory=Wanted)
    count: int | None = None
    guidance: tuple[float, ...] = ()
    settings: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0
    program: str | None = None
    steps: int | None = None
    batch: int | None = None
    device: str = "auto"
    executor: Executor | None = None


def evaluate(path: Path, options: Options, tell: Tell | None = None) -> Evaluation:
    """Evaluates a bundle, or a set of samples in files. Raises DiagnosticError and BundleError.

    DiagnosticError: E0401 to E0403, E0408, E0706, E0714, E0720 to E0722, E0726.
    """
    progress = tell or (lambda done, total, stage: None)
    begun = time.monotonic()
    of = _of_bundle if (path / MANIFEST).is_file() or not path.exists() else _of_samples
    judge, sources = of(path, options, progress)
    runs = []
    for scale, source in sources.items():
        found = judge.features(source, progress)
        runs.append(Run(scale, source, judge.result(found, classes=True)))
    first = next(iter(sources.values()))
    return Evaluation(path.name, judge, tuple(runs), time.monotonic() - begun, first.class_names)


SampleSources = dict[float | None, SampleSource]  # by guidance scale; None: the default


def _of_samples(path: Path, options: Options, tell: Tell) -> tuple[Judge, SampleSources]:
    if options.guidance:
        raise DiagnosticError.of("E0722", "samples in files have no guidance scale", help="give the bundle instead")
    source = InFiles(path, options.count, options.seed)
    shape, dtype = source.first.shape[1:], "f32" if source.first.dtype.kind == "f" else "i64"
    output = Output(shape, dtype)  # type: ignore[arg-type]
    if source.field["medium"] == "image":
        output = Output(shape, "f32", "image", AXES, (0, 255))
    return open_judge(options.wanted, None, output, tell), {None: source}


def _of_bundle(path: Path, options: Options, tell: Tell) -> tuple[Judge, SampleSources]:
    pipe = load(path, options.device)
    spec = load_spec(pipe.bundle.folder / "spec.yaml")
    output = pipe.program(options.program, options.steps).outputs[0].output
    scales = options.guidance or (None,)

    def source(count: int, scale: float | None) -> SampleSource:
        settings = all_settings(options.settings, guidance=scale)
        drawn = (options.seed, settings, options.program, options.steps, options.batch, options.executor)
        return Generated(pipe, count, *drawn)

    for scale in scales:  # a scale that is refused is reported before the reference is read
        source(1, scale)
    judge = open_judge(options.wanted, spec.data, output, tell)
    known = judge.references[judge.main].count
    count = options.count or min(known or MOST, MOST)
    return judge, {scale: source(count, scale) for scale in scales}
