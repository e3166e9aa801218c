"""A candidate as its user will have it: compiled by the compiler, run by the runtime, on the target's engine."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from latentc.components.samplers.base import ArraySampler
from latentc.ir.report import flops
from latentc.lower import lower
from latentc.measure.metrics import alternated
from latentc.pipeline import optimised
from latentc.tune.budget import Measured
from latentc.tune.candidates import Candidate
from latentc.tune.quality import Qualities
from latentc.tune.write import candidate_yaml, check_written
from latentc_runtime import Pipeline, load

Array = np.ndarray
Compile = Callable[[Path, Path], object]  # spec file, bundle
FEWEST, SECONDS = 5, 1.0  # repetitions that are timed at least, and for how long


def measured(
    candidate: Candidate,
    base: Path,
    own: ArraySampler,
    compile: Compile,
    judge: Callable[[Array, Array], Qualities],
    seeds: Array,
    labels: Array,
    batch: int,
    device: str,
) -> Measured:
    """Compiles a candidate of the spec in the file `base`, times `batch` samples, judges those of all seeds.

    Raises DiagnosticError and BundleError as compiling and sampling do.
    """
    with tempfile.TemporaryDirectory(prefix="latentc-") as name:
        folder = Path(name)
        file = folder / "candidate.yaml"
        file.write_text(candidate_yaml(candidate, str(base), own), encoding="utf-8")
        spec = check_written(file, candidate)
        # What quantising makes of it is the same work in other numbers, and needs a calibration.
        unquantised = spec.model_copy(update={"optimize": spec.optimize.model_copy(update={"quantize": None})})
        lowered = optimised(lower(unquantised), unquantised)
        program = lowered.programs[0]
        compile(file, folder / "bundle")
        pipe = load(folder / "bundle", device, verify=False)
        seconds = _seconds(pipe, seeds[:1].repeat(batch), labels[:1].repeat(batch))
        samples = pipe.sample(labels, seeds)
    work = flops(lowered.module, program.entry) / 1e9
    return Measured(candidate, program.evaluations, work, seconds, judge(samples, labels))


def _seconds(pipe: Pipeline, seeds: Array, labels: Array) -> float:
    """Wall-clock seconds of one batch, noise included: the lower quartile of several, after one that is not counted.

    Whatever else the machine does makes times longer, never shorter.
    """
    pipe.sample(labels, seeds)
    (times,) = alternated([lambda: pipe.sample(labels, seeds)], SECONDS, FEWEST)
    return float(np.quantile(times, 0.25))
