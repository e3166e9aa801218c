"""Classes of samples by the programs of a bundle that say how well a sample fits a class, or by a classifier's logits.

Symbols: n samples, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from latentc_runtime.conditions import checked_given
from latentc_runtime.errors import BundleError
from latentc_runtime.manifest import ProgramEntry
from latentc_runtime.noise import seed_words
from latentc_runtime.pipeline import Pipeline
from latentc_runtime.request import check_request
from latentc_runtime.sources import Condition, RequestError

# Programs that classify, with the sign that makes their first output an error.
PROGRAMS = {"classify": 1.0, "log_likelihood": -1.0}
GRID = "grid"  # the condition that selects the grid of noise levels for a run's predictions
LOGITS = "logits"  # the program of a classifier
CHUNK = 4096  # largest number of pairs of a sample and a class held in memory at once


@dataclass(frozen=True)
class Round:
    """`runs` of the program for each class that is left, after which the `keep` best remain (null: all)."""

    runs: int = 1
    keep: int | None = None


@dataclass(frozen=True)
class Classified:
    """labels i64[n]; errors f64[n, K], the mean over all runs of each class; runs i64[n, K], how many those were.

    A class that was dropped has the error at which it was. `evaluations` of the network, over all samples.
    """

    labels: NDArray[np.int64]
    errors: NDArray[np.float64]
    runs: NDArray[np.int64]
    evaluations: int


def classify(
    pipe: Pipeline,
    samples: ArrayLike,
    rounds: Sequence[Round] = (Round(),),
    seed: int = 0,
    classes: Sequence[int | str] | None = None,
    conditions: dict[str, Any] | None = None,
    batch: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Classified:
    """The class under which each of `samples` [n, ...] fits best, in rounds that drop unlikely classes.

    All classes of sample i get the same noise in a run, from a seed that follows from `seed` + i and the run's number.
    Runs take the program's grids of noise levels in turn.
    `classes`: the candidates, numbers or names, all by default. `conditions`: the others of the program, the same for
    all samples. A flow has one run without noise: its exact likelihood. A classifier has one of all classes, whose
    errors are their negative log-probabilities. Raises BundleError E0607 to E0609.
    """
    if any(entry.name == LOGITS for entry in pipe.manifest.programs):
        return _by_logits(pipe, samples, classes, batch, progress)
    entry, name, sign = _program(pipe)
    label = next((c for c in pipe.manifest.conditions_of(entry) if c.form == "label"), None)
    state = next(c for c in pipe.manifest.conditions_of(entry) if c.form == "array" and c.name in ("x", "tokens"))
    if label is None or not label.classes:
        raise BundleError("E0608", f"program `{name}` does not take a class", "classify with a class-conditional model")
    given = _samples(samples, state)
    # Another condition of the name, such as a map, is the caller's.
    asked = pipe.manifest.conditions_of(entry)
    grid = next((c for c in asked if (c.name, c.form, *c.shape) == (GRID, "tokens", 1)), None)
    candidates, first = _candidates(label, classes), _first_seed(seed)
    if name != "classify":
        rounds = (Round(),)
    for one in rounds:
        if one.runs < 1 or (one.keep is not None and one.keep < 1):
            raise BundleError("E0608", f"a round of {one.runs} runs that keeps {one.keep} classes", "give 1 or more")
    count = len(given)
    alive = np.zeros((count, label.classes), bool)
    alive[:, candidates] = True
    totals, runs = np.zeros((count, label.classes)), np.zeros((count, label.classes), np.int64)
    left = _work(count, int(alive[:1].sum()), rounds)
    done, number = 0, 0
    for one in rounds:
        for _ in range(one.runs):
            rows, columns = np.nonzero(alive)
            for start in range(0, len(rows), CHUNK):
                i, k = rows[start : start + CHUNK], columns[start : start + CHUNK]
                # The run's number is in the upper bits, so that runs of neighbouring samples do not share noise.
                seeds = (first + i.astype(np.uint64)) ^ (np.uint64(number) << np.uint64(40))
                values = {**(conditions or {}), state.name: given[i], label.name: k}
                if grid is not None:
                    values[GRID] = np.full((len(i), 1), number % (grid.vocabulary or 1))
                request = check_request(pipe.manifest, entry, None, seeds, values, most=max(len(i), 1))
                made = next(iter(pipe.run(request, batch).values()))
                np.add.at(totals, (i, k), sign * made)
                np.add.at(runs, (i, k), 1)
                done += len(i)
                if progress is not None:
                    progress(done, left)
            number += 1
        if one.keep is not None:
            alive &= _best(np.where(alive, totals / np.maximum(runs, 1), np.inf), one.keep)
    with np.errstate(divide="ignore", invalid="ignore"):
        errors = np.where(runs > 0, totals / runs, np.inf)
    labels = np.where(alive, errors, np.inf).argmin(axis=1).astype(np.int64)
    return Classified(labels, errors, runs, int(runs.sum()) * entry.steps)


def _by_logits(
    pipe: Pipeline,
    samples: ArrayLike,
    classes: Sequence[int | str] | None,
    batch: int | None,
    progress: Callable[[int, int], None] | None,
) -> Classified:
    """By the logits of a classifier, which takes all classes at once."""
    entry = pipe.program(LOGITS)
    (state,) = pipe.manifest.conditions_of(entry)
    given = _samples(samples, state)
    count = entry.outputs[0].output.shape[0]
    candidates = _candidates(Condition("class", "label", classes=count), classes)
    errors, runs = np.full((len(given), count), np.inf), np.zeros((len(given), count), np.int64)
    for start in range(0, len(given), CHUNK):
        part = given[start : start + CHUNK]
        request = check_request(pipe.manifest, entry, None, 0, {state.name: part}, count=len(part), most=len(part))
        logits = np.asarray(next(iter(pipe.run(request, batch).values())), np.float64)
        high = logits.max(axis=1, keepdims=True)
        found = high + np.log(np.exp(logits - high).sum(axis=1, keepdims=True)) - logits
        errors[start : start + CHUNK, candidates] = found[:, candidates]
        if progress is not None:
            progress(start + len(part), len(given))
    runs[:, candidates] = 1
    return Classified(errors.argmin(axis=1).astype(np.int64), errors, runs, len(given) * entry.steps)


def _samples(samples: ArrayLike, state: Condition) -> NDArray[np.float32]:
    """Samples f32[n, ...] of the shape that a program takes. BundleError E0608."""
    shape = np.shape(samples)  # before the samples are read, if they are in a file
    if not shape or shape[1:] != tuple(state.shape):
        message = f"samples have shape {list(shape[1:])}, not {list(state.shape)}"
        raise BundleError("E0608", message, f"give an array [n, {', '.join(map(str, state.shape))}]")
    return np.asarray(samples, np.float32)


def _program(pipe: Pipeline) -> tuple[ProgramEntry, str, float]:
    held = {entry.name for entry in pipe.manifest.programs}
    for name, sign in PROGRAMS.items():
        if name in held:
            return pipe.program(name), name, sign
    mend = "compile one with `latentc compile SPEC --set 'programs=[{kind: classify}]'`, or use a normalising flow"
    raise BundleError("E0609", "this bundle has no program that classifies", mend)


def _candidates(label: Condition, classes: Sequence[int | str] | None) -> NDArray[np.int64]:
    """The numbers i64[k] of the classes to choose from. BundleError E0608."""
    if classes is None:
        return np.arange(label.classes or 0)
    try:
        found = checked_given([replace(label, encoding="index")], [], classes=classes).conditions[label.name]
    except RequestError as error:
        raise BundleError("E0608", error.message, error.help) from None
    if not len(found):
        raise BundleError("E0608", "there are no classes to choose from", "name one or more, or leave `classes` out")
    return found.astype(np.int64)


def _first_seed(seed: int) -> np.uint64:
    try:
        return np.uint64(seed_words([seed])[0])
    except ValueError as error:
        raise BundleError("E0608", str(error), "give an integer from 0 to 2^64 - 1") from None


def _best(errors: NDArray[np.float64], keep: int) -> NDArray[np.bool_]:
    """True for the `keep` least errors of each sample."""
    order = np.argsort(errors, axis=1, kind="stable")
    best = np.zeros(errors.shape, bool)
    np.put_along_axis(best, order[:, :keep], True, axis=1)
    return best


def _work(count: int, classes: int, rounds: Sequence[Round]) -> int:
    """How many pairs of a sample and a class are run in all."""
    total = 0
    for one in rounds:
        total += count * classes * one.runs
        classes = classes if one.keep is None else min(classes, one.keep)
    return total
