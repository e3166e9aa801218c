"""Measures a quantised bundle: its samples against float32, and its time against the unquantised engine."""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from latentc.diagnostics import Diagnostic, DiagnosticError
from latentc.engines import ENGINES
from latentc.measure.metrics import alternated, psnr
from latentc.quantize.calibration import Calibration
from latentc.quantize.gate import Gate, Judged
from latentc.quantize.model import Model
from latentc.quantize.plan import Choice, span
from latentc.quantize.quality import Quality
from latentc.spec.sections import Quantize
from latentc_runtime import BundleError, Pipeline, load

MOST = 30  # number of timed pairs of runs
SECONDS = 10.0
BATCH = 8
FAR = 10.0  # multiples of the data's range beyond which samples cannot come from a trained network
REFERENCE = "ONNX Runtime on the CPU"  # engine that judges plans


@dataclass(frozen=True)
class Verdict:
    """The quality as measured by the engine `judged`, and the speedup at `batch` if it was measured."""

    quality: Quality
    judged: str = REFERENCE
    speedup: float | None = None
    batch: int | None = None
    notes: tuple[str, ...] = ()
    metrics: tuple[Judged, ...] = ()

    def text(self, settings: Quantize) -> str:
        """One line: each figure with its limit."""
        return f"{self.quality_text(settings)}; {self.speed_text(settings)}"

    def quality_text(self, settings: Quantize) -> str:
        text = f"{self.quality.text()} ({self.quality.limits(settings.budget)}, by {self.judged})"
        return "; ".join([text, *(judged.text() for judged in self.metrics)])

    def speed_text(self, settings: Quantize) -> str:
        if self.speedup is None:
            return "speed not measured"
        limit = f"at least {settings.min_speedup:g} ×"
        return f"{self.speedup:.2f} × as fast as unquantised at batch {self.batch} ({limit})"

    def slow(self, settings: Quantize) -> bool:
        return self.speedup is not None and self.speedup < settings.min_speedup

    def good(self, settings: Quantize) -> bool:
        """True if every figure keeps the budget."""
        return self.quality.within(settings.budget) and all(judged.holds for judged in self.metrics)

    def holds(self, settings: Quantize) -> bool:
        return not self.slow(settings) and self.good(settings)


def measured(
    folder: Path,
    model: Model,
    calibration: Calibration,
    choice: Choice,
    baseline: Callable[[], Path],
    tell: Callable[[str], None],
    gate: Gate | None = None,
) -> Verdict:
    """Measure the bundle in `folder` on this machine; `baseline` builds the same bundle unquantised.

    `gate`: the figures of `latentc evaluate` that the budget bounds.

    If its engine does not run here, the quality is that of the plan, and the speed is not measured; a note says so.
    """
    engine = model.spec.target.engine
    device = ENGINES[engine].device
    try:
        pipe = load(folder, device, verify=False)
    except BundleError as error:
        if error.code != "E0606" and device == "auto":
            raise  # the engine runs here, but not this bundle
        what = "speed was" if gate is None else "speed and the metrics of the budget were"
        why = f"{what} not measured: {engine} does not run on this machine ({error.message})"
        return Verdict(choice.quality, notes=(why,))
    quality, judged = choice.quality, REFERENCE
    if quality.perplexity is None:  # otherwise samples differ as soon as one token does
        tell("sampling with the quantised engine")
        classes = model.classes()
        request = pipe.usual_request(len(classes), model.settings.calibration.seed, classes=classes)
        samples = next(iter(pipe.run(request).values()))
        quality = Quality(psnr=psnr(samples, calibration.samples, span(model.spec)))
        judged = f"{pipe.manifest.engine} on {pipe.device}"
    tell("timing against the unquantised engine")
    plain = load(baseline(), device, verify=False)
    batch = min(BATCH, pipe.program().max_batch or BATCH)
    faster = speedup([pipe, plain], batch)
    if gate is None:
        return Verdict(quality, judged, faster, batch)
    tell(f"judging {gate.count} samples with and without quantisation")
    return Verdict(quality, judged, faster, batch, metrics=gate.judged(pipe, plain))


def _out_of_range(calibration: Calibration, width: float | None, quality: Quality) -> list[str]:
    """A note if PSNR, which is relative to the range of data, says little because samples are far outside of it."""
    reached = float(np.abs(calibration.samples).max())
    if quality.psnr is None or width is None or reached <= FAR * width:
        return []
    wide = quality.psnr + 20 * math.log10(2 * reached / width)
    return [
        f"the unquantised samples reach {reached:.3g}, but data has a range of {width:g}: are the weights trained? "
        f"Relative to the samples, PSNR is {wide:.1f} dB"
    ]


def speedup(pipes: Sequence[Pipeline], batch: int, seconds: float = SECONDS) -> float:
    """The time of the second over that of the first: median over pairs of whole samplers, run alternately."""
    calls = [functools.partial(pipe.run, pipe.usual_request(batch)) for pipe in pipes]
    for call in calls:
        call()  # opens engines and fills caches
    first, second = alternated(calls, seconds, most=MOST)
    return statistics.median(b / a for a, b in zip(first, second, strict=True))


def refusal(verdict: Verdict, model: Model, choice: Choice, calibration: Calibration) -> DiagnosticError:
    """E0804 for a quantised engine that is too slow or too inaccurate: its figures, and what may help."""
    settings = model.settings
    notes, faults, mends = [verdict.text(settings)], [], []
    if not verdict.good(settings):
        faults.append("worse than its budget allows")
        notes += _out_of_range(calibration, span(model.spec), verdict.quality)
        notes.append(f"the most sensitive layers are {', '.join(list(choice.sensitivity)[:3])}")
        if len(choice.quantization.plan) == len(choice.losses):
            notes.append("none of the subsets of layers that were tried meets the budget")
        mends.append("exclude these, set `smooth: 0.5`, use another scheme, or raise `optimize.quantize.budget`")
    if verdict.slow(settings):
        faults.append("not fast enough")
        mends.append("use another scheme or engine, or leave `optimize.quantize` out; small layers gain nothing")
    return DiagnosticError(
        Diagnostic(
            "E0804",
            f"the {settings.scheme} engine is {' and '.join(faults)}",
            model.spec.span("optimize", "quantize"),
            notes=tuple(notes),
            help=f"{'; '.join(mends)}; `--force` builds it anyway and reports on its layers",
        )
    )
