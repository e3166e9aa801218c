"""Measures a quantised bundle: its samples against float32, and its time against the unquantised engine."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from latentc.diagnostics import Diagnostic, DiagnosticError
from latentc.engines import ENGINES
from latentc.measure.metrics import alternated, psnr
from latentc.quantize.calibration import Calibration
from latentc.quantize.plan import Choice, span
from latentc.quantize.quality import Quality, allowed
from latentc.quantize.trajectories import classes_for
from latentc.spec import Spec
from latentc.spec.sections import Quantize
from latentc_runtime import BundleError, Pipeline, load

MOST = 30  # pairs of runs that are timed
SECONDS = 10.0
BATCH = 8


@dataclass(frozen=True)
class Verdict:
    """The quality as measured by the engine `judged`, and the speedup at `batch` if it was measured."""

    quality: Quality
    judged: str
    speedup: float | None = None
    batch: int | None = None
    notes: tuple[str, ...] = ()

    def text(self, asked: Quantize) -> str:
        """One line: each figure with its limit."""
        fast = "speed not measured"
        if self.speedup is not None:
            fast = (
                f"{self.speedup:.2f} × as fast as unquantised at batch {self.batch} (at least {asked.min_speedup:g} ×)"
            )
        return f"{self.quality.text()} ({allowed(asked.budget, self.quality)}, by {self.judged}); {fast}"

    def holds(self, asked: Quantize) -> bool:
        fast = self.speedup is None or self.speedup >= asked.min_speedup
        return fast and self.quality.within(asked.budget)


def measured(
    folder: Path,
    spec: Spec,
    asked: Quantize,
    calibration: Calibration,
    choice: Choice,
    baseline: Callable[[], Path],
    tell: Callable[[str], None],
) -> Verdict:
    """Measure the bundle in `folder` on this machine; `baseline` builds the same bundle unquantised.

    If its engine does not run here, the quality is that of the plan, and the speed is not measured; a note says so.
    """
    device = ENGINES[spec.target.engine].device
    try:
        pipe = load(folder, device, verify=False)
    except BundleError as error:
        if error.code != "E0606" and device == "auto":
            raise  # the engine runs here, but not this bundle
        why = f"speed was not measured: {spec.target.engine} does not run on this machine ({error.message})"
        return Verdict(choice.quality, "ONNX Runtime on the CPU", notes=(why,))
    classes = classes_for(spec, asked)
    quality, judged = choice.quality, "ONNX Runtime on the CPU"
    if choice.quality.perplexity is None:  # else samples differ as soon as one token does
        tell("sampling with the quantised engine")
        request = pipe.usual_request(len(classes), asked.calibration.seed, classes=classes)
        samples = next(iter(pipe.run(request).values()))
        quality = Quality(psnr=psnr(samples, calibration.samples, span(spec)))
        judged = f"{pipe.manifest.engine} on {pipe.device}"
    tell("timing against the unquantised engine")
    plain = load(baseline(), device, verify=False)
    batch = min(BATCH, pipe.program().max_batch or BATCH)
    return Verdict(quality, judged, speedup([pipe, plain], batch), batch)


def speedup(pipes: Sequence[Pipeline], batch: int, seconds: float = SECONDS) -> float:
    """The time of the second over that of the first: median over pairs of whole samplers, run alternately."""
    calls = [functools.partial(pipe.run, pipe.usual_request(batch)) for pipe in pipes]
    for call in calls:
        call()  # opens engines, fills caches
    first, second = alternated(calls, seconds, most=MOST)
    return statistics.median(b / a for a, b in zip(first, second, strict=True))


def refusal(verdict: Verdict, asked: Quantize, spec: Spec, choice: Choice) -> DiagnosticError:
    """The error for a quantised engine that is too slow or too inaccurate: its figures, and what may help."""
    slow = verdict.speedup is not None and verdict.speedup < asked.min_speedup
    bad = not verdict.quality.within(asked.budget)
    notes = [verdict.text(asked)]
    mends = []
    if bad:
        worst = list(choice.sensitivity)[:3]
        notes.append(f"the most sensitive layers are {', '.join(worst)}")
        if len(choice.quantization.plan) == len(choice.losses):
            notes.append("no subset of the layers that was tried keeps the budget")
        mends.append(
            "exclude these, set `smooth: 0.5`, take another scheme, or allow more in `optimize.quantize.budget`"
        )
    if slow:
        mends.append("take another scheme or engine, or leave `optimize.quantize` out; small layers gain nothing")
    what = " and ".join([*(["worse than its budget"] if bad else []), *(["not fast enough"] if slow else [])])
    return DiagnosticError(
        Diagnostic(
            "E0804",
            f"the {asked.scheme} engine is {what}",
            spec.span("optimize", "quantize"),
            notes=tuple(notes),
            help=f"{'; '.join(mends)}; `--force` builds it anyway, with the report of its layers",
        )
    )


def finite(value: float | None) -> float | None:
    """A figure as JSON can hold it: None if it is not finite."""
    return None if value is None or not np.isfinite(value) else float(value)


__all__ = ["Verdict", "finite", "measured", "refusal", "speedup"]
