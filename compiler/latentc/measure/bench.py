"""Times the samplers of a bundle, and the emitted PyTorch in the same run.

Times are wall-clock seconds of whole samplers, noise included, after warm-up. The speed of a machine varies from minute
to minute, so what is compared takes turns.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from latentc.diagnostics.faults import needed
from latentc.measure.metrics import alternated
from latentc.measure.subject import Subject, open_subject
from latentc.measure.tables import aligned
from latentc_runtime import Pipeline
from latentc_runtime.bundle import open_bundle
from latentc_runtime.pipeline import backend_of

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Timing:
    """Seconds of `count` repetitions: the median and the quartiles."""

    median: float
    low: float
    high: float
    count: int


@dataclass(frozen=True)
class Case:
    """One sampler at one batch. `outside` is the share of the time outside of the engine's own calls.

    `first`: seconds of the first run, which opens engines and in which OpenVINO compiles for the batch; not counted
    elsewhere. `Pipeline.warm_up` does this before the first request. `pytorch` is the emitted sampler in eager mode,
    `ratio` its time over the engine's.
    """

    steps: int
    solver: str
    form: str
    batch: int
    engine: Timing
    samples_per_second: float
    ms_per_step: float
    outside: float
    first: float
    pytorch: Timing | None = None
    ratio: float | None = None


@dataclass(frozen=True)
class Bench:
    """The measurements of `bench`."""

    bundle: str
    name: str
    device: str
    threads: int | None
    cases: tuple[Case, ...]

    def data(self) -> dict[str, Any]:
        """As plain data, for JSON."""
        return dataclasses.asdict(self)

    def text(self) -> str:
        """As a table."""
        head = [
            "steps",
            "solver",
            "form",
            "batch",
            "seconds",
            "quartiles",
            "samples/s",
            "ms/step",
            "outside",
            "first s",
        ]
        compared = any(case.pytorch for case in self.cases)
        rows = [[*head, *(["PyTorch eager", "ratio"] if compared else [])]]
        for c in self.cases:
            spread = f"{c.engine.low:.3g}-{c.engine.high:.3g}"
            row = [str(c.steps), c.solver, c.form, str(c.batch), f"{c.engine.median:.4g}", spread]
            row += [f"{c.samples_per_second:.4g}", f"{c.ms_per_step:.3g}", f"{c.outside:.1%}", f"{c.first:.3g}"]
            if compared:
                row += [f"{c.pytorch.median:.4g}", f"{c.ratio:.2f}"] if c.pytorch and c.ratio else ["", ""]
            rows.append(row)
        return "\n".join([f"{self.name} on {self.device}: {self.bundle}", "", *aligned(rows, left=0)]) + "\n"


def bench(
    path: str | os.PathLike[str],
    *,
    batches: Sequence[int] = (1, 8),
    steps: Sequence[int] = (),
    compare: bool = False,
    seconds: float = 5.0,
    device: str = "cpu",
    threads: int | None = None,
    progress: Progress | None = None,
) -> Bench:
    """Time the samplers of the bundle at `path`.

    `batches` beyond the engine's largest are left out. `steps`: which samplers, by default all. With `compare`, the
    emitted PyTorch samples from the same inputs in turns with the engine, on the GPU if that runs there; its noise is
    drawn beforehand. `seconds`: per case. `threads`: CPU threads for both. Raises BundleError if the bundle cannot be
    opened, DiagnosticError E0706 without torch.
    """
    bundle = open_bundle(path)
    pipeline = Pipeline(bundle, backend_of(bundle, device, threads))
    subject = None
    if compare:
        subject = dataclasses.replace(open_subject(path, device), torch_device=_torch_device(pipeline.device))
    counts = steps or pipeline.steps
    plan = [(n, batch) for n in counts for batch in batches if batch <= (pipeline.program(steps=n).max_batch or batch)]
    tell = progress or (lambda done, total, what: None)
    cases = []
    for done, (n, batch) in enumerate(plan):
        tell(done, len(plan), f"{n} steps at batch {batch}")
        cases.append(_case(pipeline, subject, n, batch, seconds, threads))
    tell(len(plan), len(plan), "done")
    folder = str(Path(path).resolve())
    device = f"{pipeline.device} ({bundle.manifest.engine}, {bundle.manifest.precision})"
    return Bench(folder, bundle.manifest.name, device, threads, tuple(cases))


def _case(
    pipeline: Pipeline,
    subject: Subject | None,
    steps: int,
    batch: int,
    seconds: float,
    threads: int | None,
) -> Case:
    request = pipeline.usual_request(batch, 0, steps)
    entry = request.entry
    calls: list[Callable[[], object]] = [lambda: pipeline.run(request)]
    if subject is not None:
        operands = subject.operands(request)
        emitted = subject.emitted.program(entry)
        count = threads or subject.emitted.torch.get_num_threads()

        def pytorch_sample() -> None:
            with subject.emitted.threads(count):
                emitted(operands)

        calls.append(pytorch_sample)
    first = alternated(calls, 0.0, 1)[0][0]  # opens engines and fills caches
    before = pipeline.backend.spent
    times = alternated(calls, seconds)
    inside = pipeline.backend.spent - before
    engine = timing(times[0])
    pytorch = timing(times[1]) if len(times) > 1 else None
    return Case(
        steps=steps,
        solver=entry.solver,
        form=entry.form,
        batch=batch,
        engine=engine,
        samples_per_second=batch / engine.median,
        ms_per_step=1e3 * engine.median / steps,
        outside=max(0.0, 1.0 - inside / sum(times[0])),
        first=first,
        pytorch=pytorch,
        ratio=pytorch.median / engine.median if pytorch else None,
    )


def _torch_device(device: str) -> str:
    """The PyTorch device that is the counterpart of a device of the runtime."""
    torch = needed("torch", "running the emitted PyTorch", 'pip install "latentc[torch]"')
    return "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"


def timing(times: Sequence[float]) -> Timing:
    """Median and quartiles."""
    low, median, high = (float(q) for q in np.quantile(times, [0.25, 0.5, 0.75]))
    return Timing(median, low, high, len(times))
