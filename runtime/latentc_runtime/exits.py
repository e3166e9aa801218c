"""Sampling that decides at run time where each evaluation leaves the network, by programs of a bundle.

A bundle has them if its spec says `sampler.exit: {dynamic: true}`: `exit_1`, `exit_2`, … each run the blocks up to the
next exit, `exit_step` makes a step of the sampler from a prediction. Symbols: n samples, N steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from latentc_runtime.errors import BundleError
from latentc_runtime.manifest import ProgramEntry
from latentc_runtime.pipeline import Pipeline
from latentc_runtime.request import Request, check_request
from latentc_runtime.sources import Given

STEP = "exit_step"
Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Exited:
    """samples f32[n, ...]; exits i64[N, n], the number of the exit, from 1, by which each evaluation left the network,
    the last for one that ran it as a whole; uncertainties f32[N, n] of the predictions that were taken, 0 of the
    last."""

    samples: NDArray[np.float32]
    exits: NDArray[np.int64]
    uncertainties: NDArray[np.float32]


def sample(
    pipe: Pipeline,
    classes: ArrayLike | Sequence[int | str] | None = None,
    seeds: ArrayLike = 0,
    *,
    threshold: float = 0.1,
    plan: Sequence[int] | None = None,
    conditions: Mapping[str, Any] | None = None,
    count: int | None = None,
    batch: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Exited:
    """Samples of which each evaluation leaves the network by the first exit that is at most `threshold` uncertain.

    Each sample is decided by itself, so the blocks behind run for the samples that are left. `plan` names the exit of
    each step instead, from 1. Other arguments are those of `Pipeline.sample`. Raises BundleError E0607 to E0609.
    """
    stages, step = _programs(pipe)
    steps = step.steps
    if plan is not None and (len(plan) != steps or not all(1 <= e <= len(stages) for e in plan)):
        message = f"a plan of {len(plan)} exits"
        raise BundleError("E0608", message, f"give {steps} exit numbers from 1 to {len(stages)}")
    asked = check_request(pipe.manifest, pipe.program("sample"), classes, seeds, conditions, count=count)
    given, n = asked.given, len(asked)
    (state,) = (c.name for c in pipe.manifest.conditions_of(step) if c.name != "prediction")
    x = pipe.noise(given.seeds, n, program="sample")[state]
    exits, doubts = np.zeros((steps, n), np.int64), np.zeros((steps, n), np.float32)

    def run(entry: ProgramEntry, rows: NDArray[np.int64], arrays: Arrays, i: int) -> Arrays:
        own = {c.name for c in pipe.manifest.conditions_of(entry)}
        told = {name: value[rows] for name, value in given.conditions.items() if name in own}
        told |= {name: value for name, value in arrays.items() if name in own}
        masks = {name: value[rows] for name, value in given.masks.items() if name in own}
        settings = {s.name: np.full(len(rows), float(i)) for s in pipe.manifest.settings_of(entry) if s.name == "step"}
        return pipe.run(Request(entry, Given(given.seeds[rows], told, masks, settings)), batch)

    for i in range(steps):
        rows, held = np.arange(n), {state: x}
        predictions: NDArray[Any] | None = None
        for number, entry in enumerate(stages, 1):
            made = run(entry, rows, held, i)
            found = made["prediction"]
            predictions = np.empty((n, *found.shape[1:]), found.dtype) if predictions is None else predictions
            last = number == len(stages)
            doubt = np.zeros(len(rows), np.float32) if last else made["uncertainty"]
            leaves = np.full(len(rows), last) | (doubt <= threshold if plan is None else number >= plan[i])
            gone = rows[leaves]
            predictions[gone], exits[i, gone], doubts[i, gone] = found[leaves], number, doubt[leaves]
            held = {name: array[~leaves] for name, array in {**held, **made}.items()}
            rows = rows[~leaves]
            if not len(rows):
                break
        assert predictions is not None
        x = next(iter(run(step, np.arange(n), {state: x, "prediction": predictions}, i).values()))
        if progress is not None:
            progress(i + 1, steps)
    return Exited(x.astype(np.float32), exits, doubts)


def _programs(pipe: Pipeline) -> tuple[list[ProgramEntry], ProgramEntry]:
    """The programs of the stages in order, and that of a step. BundleError E0609."""
    held = {entry.name for entry in pipe.manifest.programs}
    if STEP not in held:
        mend = "compile them with `--set sampler.exit.dynamic=true`"
        raise BundleError("E0609", "this bundle has no programs with early exits", mend)
    names = [f"exit_{i}" for i in range(1, len(held) + 1) if f"exit_{i}" in held]
    return [pipe.program(name) for name in names], pipe.program(STEP)
