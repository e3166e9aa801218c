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
from latentc.evaluate.results import Evaluation, Run
from latentc.evaluate.sources import Generated, Source, pictures_from_npz
from latentc.evaluate.store import Tell
from latentc.files import read_arrays
from latentc.spec import load_spec
from latentc_runtime import load
from latentc_runtime.manifest import Output

MOST = 10_000  # samples that are drawn unless more are asked for


@dataclass(frozen=True)
class Options:
    """How to evaluate.

    `count`: samples to draw; None: as many as the reference has, at most MOST. `guidance`: scales to compare; none: the
    bundle's default. `settings`: others by name, the same for all. `program` and `steps`: which program.
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


def evaluate(path: Path, options: Options, tell: Tell | None = None) -> Evaluation:
    """Evaluates a bundle, or the samples in an .npz. Raises DiagnosticError and BundleError.

    DiagnosticError: E0401 to E0403, E0408, E0706, E0714, E0720 to E0722.
    """
    progress = tell or (lambda done, total, stage: None)
    begun = time.monotonic()
    if path.suffix == ".npz" and path.is_file():
        judge, sources = _of_samples(path, options, progress)
    else:
        judge, sources = _of_bundle(path, options, progress)
    runs = []
    for scale, source in sources.items():
        found = judge.features(source, progress)
        runs.append(Run(scale, source, judge.result(found, classes=True)))
    first = next(iter(sources.values()))
    return Evaluation(path.name, judge, tuple(runs), time.monotonic() - begun, first.class_names)


Sources = dict[float | None, Source]  # by guidance scale; None: the default


def _of_samples(path: Path, options: Options, tell: Tell) -> tuple[Judge, Sources]:
    arrays = read_arrays(path)
    if "arr_0" not in arrays:
        held = ", ".join(arrays) or "nothing"
        mend = "samples are pictures `arr_0` u8[N, H, W, C] with labels `arr_1`, as ADM's evaluation takes them"
        raise DiagnosticError.of("E0722", f"{path} holds {held}, not samples", help=mend)
    if options.guidance:
        mend = "give the bundle instead"
        raise DiagnosticError.of("E0722", "samples in a file have no guidance scale", help=mend)
    source = pictures_from_npz(path, arrays)
    _, height, width, channels = arrays["arr_0"].shape
    output = Output((height, width, channels), "f32", "image", ("height", "width", "channel"), (0, 255))
    return open_judge(options.wanted, None, output, tell), {None: source}


def _of_bundle(path: Path, options: Options, tell: Tell) -> tuple[Judge, Sources]:
    pipe = load(path, options.device)
    spec = load_spec(pipe.bundle.folder / "spec.yaml")
    output = pipe.program(options.program, options.steps).outputs[0].output
    scales = options.guidance or (None,)

    def source(count: int, scale: float | None) -> Source:
        settings = {**options.settings, **({} if scale is None else {"guidance": scale})}
        drawn = (options.seed, settings, options.program, options.steps, options.batch)
        return Generated(pipe, count, *drawn)

    for scale in scales:  # what is wrong with one is said before the reference is read
        source(1, scale)
    judge = open_judge(options.wanted, spec.data, output, tell)
    known = judge.references[judge.main].count
    count = options.count or min(known or MOST, MOST)
    return judge, {scale: source(count, scale) for scale in scales}


__all__ = ["Options", "evaluate"]
