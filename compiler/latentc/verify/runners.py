"""What Polygraphy runs and compares: the oracle, the emitted PyTorch and the engine behind its runner class.

Every runner takes a feed {input name: array} and gives {"out": array}.
"""

from __future__ import annotations

import contextlib
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from polygraphy.backend.base import BaseRunner
from polygraphy.common import TensorMetadata
from polygraphy.comparator import Comparator, RunResults
from polygraphy.comparator.compare import BaseCompareFunc, CompareResult, Threshold
from polygraphy.logger import G_LOGGER

from latentc.ir.core import Value
from latentc.ir.types import NUMPY, Sym
from latentc.measure.metrics import relative_error

Array = np.ndarray
Feed = Mapping[str, Array]
OUT = "out"


class FunctionRunner(BaseRunner):
    """Runs `call(*arrays)`, the arrays in the order of `inputs`."""

    def __init__(self, name: str, inputs: Sequence[Value], call: Callable[..., Any]) -> None:
        super().__init__(name=name)
        self.inputs, self.call = inputs, call

    def get_input_metadata_impl(self) -> TensorMetadata:
        meta = TensorMetadata()
        for value in self.inputs:
            shape = tuple(-1 if isinstance(d, Sym) else int(d) for d in value.type.shape)
            meta.add(value.name, dtype=NUMPY[value.type.dtype], shape=shape)
        return meta

    def infer_impl(self, feed_dict: Feed) -> OrderedDict[str, Array]:
        start = time.perf_counter()
        result = self.call(*(feed_dict[value.name] for value in self.inputs))
        self.inference_time = time.perf_counter() - start
        return OrderedDict([(OUT, np.asarray(result))])


class RelativeThreshold(Threshold):
    """Largest relative error, as `latentc.measure.tolerances` defines it."""

    METRIC_FIELDS = ("relative_error",)

    def __init__(self, tolerance: float) -> None:
        self.tolerance = tolerance

    def passed(self, metric_values: Mapping[str, float]) -> bool:
        return metric_values["relative_error"] <= self.tolerance


class RelativeResult(CompareResult):
    """The relative error of one output."""

    _THRESHOLD_CLASS = RelativeThreshold

    def __init__(self, relative_error: float, thresholds: RelativeThreshold | None = None) -> None:
        super().__init__(thresholds=thresholds)
        self.relative_error = relative_error
        self.output0_name = self.output1_name = OUT


class RelativeError(BaseCompareFunc):
    """Polygraphy's comparison of two results by relative error; the first is the reference."""

    _RESULT_CLASS = RelativeResult

    def __init__(self, tolerance: float) -> None:
        self.tolerance = tolerance

    def thresholds_for(self, output_name: str) -> RelativeThreshold:
        return RelativeThreshold(self.tolerance)

    def __call__(self, iter_result0: Any, iter_result1: Any) -> OrderedDict[str, RelativeResult]:
        error = relative_error(iter_result1[OUT], iter_result0[OUT])
        return OrderedDict([(OUT, RelativeResult(error, self.thresholds_for(OUT)))])


@dataclass(frozen=True)
class Run:
    """What runners made of the same feeds; `results` as Polygraphy holds them."""

    results: Any

    def outputs(self, runner: str) -> list[Array]:
        return [iteration[OUT] for iteration in self._of(runner)]

    def seconds(self, runner: str) -> list[float]:
        return [float(iteration.runtime) for iteration in self._of(runner)]

    def errors(self, reference: str, runner: str, tolerance: float) -> list[tuple[float, bool]]:
        """(relative error, within the tolerance) of each feed that both have run."""
        ours, theirs = self._of(reference), self._of(runner)
        count = min(len(ours), len(theirs))
        pair = RunResults([(reference, ours[:count]), (runner, theirs[:count])])
        with quiet():
            accuracy = Comparator.compare_accuracy(pair, comparisons=[(0, 1)], compare_func=RelativeError(tolerance))
        matches = [match[OUT] for match in accuracy[0][(reference, runner)]]
        return [(match.relative_error, bool(match)) for match in matches]

    def _of(self, runner: str) -> Any:
        return next(iterations for name, iterations in self.results if name == runner)


def run(runners: Sequence[BaseRunner], feeds: Sequence[Feed]) -> Run:
    """Runs every runner on every feed, one runner after the other."""
    with quiet():
        return Run(Comparator.run(list(runners), data_loader=[dict(feed) for feed in feeds]))


def joined(*runs: Run) -> Run:
    """Runs of different runners as one; a runner may have run fewer feeds than the others."""
    return Run([item for run in runs for item in run.results])


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Polygraphy without its log."""
    with G_LOGGER.verbosity(G_LOGGER.CRITICAL):
        yield


__all__ = ["OUT", "Array", "Feed", "FunctionRunner", "RelativeError", "Run", "joined", "quiet", "run"]
