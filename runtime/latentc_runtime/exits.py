"""Sampling that decides at run time where each evaluation leaves the network, by programs of a bundle.

A bundle has them if its spec has program `{kind: exit, dynamic: true}`: `exit_1`, `exit_2`, … each run the blocks up to
the next exit, `exit_step` makes a step of the sampler from a prediction. Symbols: n samples, N steps.
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
from latentc_runtime.request import Request, all_settings, check_request
from latentc_runtime.sources import Given

STEP = "exit_step"
Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Exited:
    """samples f32[n, ...]; exits i64[N, n], the number of the exit, from 1, by which each evaluation left the network,
    the last for one that ran it as a whole; uncertainties f32[N, n] of the predictions that were taken, 0 of the
    last. If branches of guidance are decided apart, exits and uncertainties are [N, n, branches]; exit 0 is that of a
    branch that a step does not evaluate."""

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
    apart: bool = False,
    conditions: Mapping[str, Any] | None = None,
    guidance: ArrayLike | None = None,
    settings: Mapping[str, ArrayLike] | None = None,
    count: int | None = None,
    batch: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Exited:
    """Samples of which each evaluation leaves the network by the first exit that is at most `threshold` uncertain.

    Each sample is decided by itself, so later blocks run for the samples that are left. Under guidance the
    branches of a sample, with and without conditions, leave by the same exit, the first at which all of them are
    certain enough; if `apart`, each by its own. `plan` names the exit of each step instead, from 1. Other arguments
    are those of `Pipeline.sample`. Raises BundleError E0607 to E0609.
    """
    stages, step = _programs(pipe)
    steps = step.steps
    if plan is not None and (len(plan) != steps or not all(1 <= e <= len(stages) for e in plan)):
        message = f"a plan of {len(plan)} exits"
        raise BundleError("E0608", message, f"give {steps} exit numbers from 1 to {len(stages)}")
    asked = all_settings(settings, guidance=guidance)
    request = check_request(pipe.manifest, pipe.program("sample"), classes, seeds, conditions, asked, count=count)
    given, n = request.given, len(request)
    (state,) = (c.name for c in pipe.manifest.conditions_of(step) if not c.name.startswith("prediction"))
    x = pipe.noise(given.seeds, n, program="sample")[state]
    branches = step.branches or ((0,),) * steps
    most = 1 + max(max(own) for own in branches)
    exits, doubts = np.zeros((steps, n, most), np.int64), np.zeros((steps, n, most), np.float32)

    def run(entry: ProgramEntry, rows: NDArray[np.int64], arrays: Arrays, **settings: Any) -> Arrays:
        """Runs a program for the samples `rows`, which may repeat."""
        own = {c.name for c in pipe.manifest.conditions_of(entry)}
        values = {name: value[rows] for name, value in given.conditions.items() if name in own}
        values |= {name: value for name, value in arrays.items() if name in own}
        masks = {name: value[rows] for name, value in given.masks.items() if name in own}
        numbers = {s.name for s in pipe.manifest.settings_of(entry)}
        scales = {name: value[rows] for name, value in given.settings.items() if name in numbers}
        scales |= {name: np.broadcast_to(np.float64(v), len(rows)) for name, v in settings.items() if name in numbers}
        return pipe.run(Request(entry, Given(given.seeds[rows], values, masks, scales)), batch)

    for i, own in enumerate(branches):
        # A row is a branch of a sample: all samples of the first branch, then those of the next.
        rows, branch = np.tile(np.arange(n), len(own)), np.repeat(np.array(own), n)
        held = {state: np.concatenate([x] * len(own))}
        predictions: NDArray[Any] | None = None
        for number, entry in enumerate(stages, 1):
            made = run(entry, rows, held, step=i, branch=branch)
            found = made["prediction"]
            predictions = np.zeros((most, n, *found.shape[1:]), found.dtype) if predictions is None else predictions
            last = number == len(stages)
            doubt = np.zeros(len(rows), np.float32) if last else made["uncertainty"]
            if not apart:  # rows of the branches stay together
                doubt = np.tile(doubt.reshape(len(own), -1).max(axis=0), len(own))
            leaves = np.full(len(rows), last) | (doubt <= threshold if plan is None else number >= plan[i])
            gone = rows[leaves], branch[leaves]
            predictions[gone[::-1]], exits[i][gone], doubts[i][gone] = found[leaves], number, doubt[leaves]
            held = {name: array[~leaves] for name, array in {**held, **made}.items()}
            rows, branch = rows[~leaves], branch[~leaves]
            if not len(rows):
                break
        assert predictions is not None
        named = {f"prediction_{k}" if k else "prediction": array for k, array in enumerate(predictions)}
        x = next(iter(run(step, np.arange(n), {state: x, **named}, step=i).values()))
        if progress is not None:
            progress(i + 1, steps)
    if not apart or most == 1:
        exits, doubts = exits[:, :, 0], doubts[:, :, 0]
    return Exited(x.astype(np.float32), exits, doubts)


def _programs(pipe: Pipeline) -> tuple[list[ProgramEntry], ProgramEntry]:
    """The programs of the stages in order, and that of a step. BundleError E0609."""
    held = {entry.name for entry in pipe.manifest.programs}
    if STEP not in held:
        mend = "compile them with the program `{kind: exit, dynamic: true}` in the spec"
        raise BundleError("E0609", "this bundle has no programs with early exits", mend)
    names = [f"exit_{i}" for i in range(1, len(held) + 1) if f"exit_{i}" in held]
    return [pipe.program(name) for name in names], pipe.program(STEP)
