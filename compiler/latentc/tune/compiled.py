"""A candidate as its user will have it: compiled by the compiler, run by the runtime, on the target's engine."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from latentc.evaluate.metrics import Figures
from latentc.evaluate.sources import labels_of
from latentc.ir.costs import flops
from latentc.lower import lower
from latentc.measure.metrics import alternated
from latentc.pipeline import optimised
from latentc.spec.schema import Spec
from latentc.tune.budget import Measured
from latentc.tune.candidates import Candidate, Tunable
from latentc_runtime import Pipeline, load

Array = np.ndarray
Compile = Callable[[Path, Path], object]  # spec file, bundle
FEWEST, SECONDS = 5, 1.0  # timed repetitions: smallest number, and about how long
LONG = 10.0  # seconds of a run that is repeated once
EXACT = {"quantize": None, "cache": None, "stitch": None}  # `optimize` of the reference


@dataclass(frozen=True)
class Compiling:
    """How candidates are compiled and sampled: the spec's own sampler `own` in the file `base`.

    `count` samples with seeds from `seed` on are judged; `batch` samples are timed at once.
    """

    base: Path
    own: Tunable
    compile: Compile
    seed: int
    count: int
    batch: int
    device: str

    def samples(self, sampler: Tunable) -> Array:
        """The samples to judge, drawn by another sampler without quantised layers or reused work."""
        with self._compiled(Candidate(sampler, optimize=EXACT)) as (_, pipe):
            return next(iter(pipe.run(pipe.usual_request(self.count, self.seed)).values()))

    def measured(self, candidate: Candidate, judge: Callable[[Array, Array | None], Figures]) -> Measured:
        """A candidate compiled, timed and judged. Raises DiagnosticError and BundleError as these do."""
        with self._compiled(candidate) as (spec, pipe):
            # Quantised layers do the same work with other numbers, and lowering them needs a calibration.
            unquantised = spec.model_copy(update={"optimize": spec.optimize.model_copy(update={"quantize": None})})
            lowered = optimised(lower(unquantised), unquantised)
            program = lowered.programs[0]
            seconds = self._seconds(pipe)
            request = pipe.usual_request(self.count, self.seed)
            samples = next(iter(pipe.run(request).values()))
        figures = judge(samples, labels_of(request.given, lowered.conditions))
        return Measured(candidate, program.evaluations, flops(lowered.module, program.entry) / 1e9, seconds, figures)

    @contextlib.contextmanager
    def _compiled(self, candidate: Candidate) -> Iterator[tuple[Spec, Pipeline]]:
        with tempfile.TemporaryDirectory(prefix="latentc-") as name:
            file, bundle = Path(name, "candidate.yaml"), Path(name, "bundle")
            spec = candidate.write(file, str(self.base), self.own)
            self.compile(file, bundle)
            yield spec, load(bundle, self.device, verify=False)

    def _seconds(self, pipe: Pipeline) -> float:
        """Wall-clock seconds of one batch, noise included: the lower quartile of several runs after a warm-up.

        Other load on the machine makes runs longer, never shorter.
        """
        request = pipe.usual_request(self.batch, self.seed)
        ((first,),) = alternated([lambda: pipe.run(request)], 0.0, 1)
        fewest = FEWEST if first < LONG else 1
        (times,) = alternated([lambda: pipe.run(request)], SECONDS, fewest)
        return float(np.quantile(times, 0.25))
