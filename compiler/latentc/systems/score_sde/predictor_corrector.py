"""Predictor-corrector samplers of reverse-time SDEs (Song et al. 2021, arXiv:2011.13456, algorithms 1 to 5).

A predictor steps to the next time, and corrector steps of Langevin dynamics at that time follow the score. Both are one
kind of row: ``x = a x + (c + s) score + (n + sqrt(2 s)) z`` with a step size s that a corrector takes from the norms of
noise and score, and that is 0 for a predictor.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from latentc.components.contract import Network, Program
from latentc.components.formula_source import NoSourceError
from latentc.components.parts import Problem, Spec
from latentc.components.processes.discrete import Discrete
from latentc.components.processes.formulas import Array
from latentc.components.processes.process import Parameterization, Process
from latentc.components.samplers._likelihood import Likelihood
from latentc.components.samplers.base import ArraySampler, continuous_interval, parameterization_of
from latentc.components.samplers.grid import evaluation, timesteps_of
from latentc.components.samplers.script import Script
from latentc.components.samplers.spacings.spacing import Interval
from latentc.components.samplers.table import Body, Step, Table
from latentc.components.sums import weighted_sum
from latentc.ir.builder import Builder, ModuleBuilder, Var
from latentc.systems.score_sde.discrete_steps import in_steps, level_number, limit, timestep_of
from latentc.systems.score_sde.editing import Edit, Imposed, edit_program
from latentc.systems.score_sde.geometric import Geometric
from latentc.systems.score_sde.reverse_diffusion import (
    euler_maruyama,
    index_of,
    reverse_diffusion,
    write_in_steps,
    write_step,
)


class PredictorCorrector(ArraySampler):
    """Predictor and corrector steps from time 1 to the process's `eps`, each with noise (Song et al. 2021)."""

    kind: Literal["predictor_corrector"]
    steps: int = Field(
        1000, gt=1, le=100_000, description="number of predictor steps, at evenly spaced times including both ends"
    )
    predictor: Literal["reverse_diffusion", "euler_maruyama", "ancestral", "none"] = Field(
        "reverse_diffusion", description="discretisation of the reverse-time SDE; none: only correctors"
    )
    corrector: Literal["langevin", "annealed", "none"] = Field(
        "langevin", description="step size: from the norms of score and noise, from the noise level (NCSN), or none"
    )
    snr: float = Field(0.16, gt=0, description="signal-to-noise ratio of a corrector step")
    corrector_steps: int = Field(1, gt=0, le=1_000, description="corrector steps before each predictor step")
    norms: Literal["sample", "batch"] = Field(
        "sample", description="norms of `langevin`: per sample, or the mean over the batch (the authors)"
    )
    probability_flow: bool = Field(False, description="predictors follow the probability-flow ODE, without noise")
    denoise: bool = Field(
        True,
        description="the last step adds no noise; in `inpaint` and `colourise`, only to what is given",
    )
    inpaint: bool = Field(False, description="add the program `inpaint`, which keeps given parts of an image")
    colourise: bool = Field(False, description="add the program `colourise`, which takes a grey image")
    likelihood: Likelihood | None = Field(None, description="add the program `log_likelihood`; null: none")
    PROGRAMS: ClassVar[tuple[str, ...]] = (*ArraySampler.PROGRAMS, "inpaint", "colourise", "likelihood")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "predictor_corrector", "steps": 4, "corrector_steps": 2}

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from super().problems(spec)
        target = parameterization_of(spec.objective)
        if self.spacing is not None:
            mend = "leave it out, or name `timesteps`"
            yield Problem(("spacing",), f"the steps of `{self.kind}` are spaced evenly in time", mend)
        if self.timesteps is not None and target is not None and limit(target.process) is not None:
            message = f"the steps follow the SDE that `{target.process.kind}` discretises and are evenly spaced"
            yield Problem(("timesteps",), message, "leave it out")
        if self.probability_flow and self.predictor == "ancestral":
            message = "ancestral sampling discretises the SDE, not the probability flow"
            yield Problem(("predictor",), message, "use `reverse_diffusion` or `euler_maruyama`")
        if self.predictor == self.corrector == "none":
            yield Problem(
                ("corrector",),
                "with neither a predictor nor a corrector, nothing is sampled",
                "set at least one of them",
            )
        if self.likelihood is not None and target is not None and (found := limit(target.process)) is not None:
            message = (
                f"`{target.process.kind}` has discrete steps, so it has no flow along which to integrate a likelihood"
            )
            mend = f"leave it out, or train with `process: {{kind: {found.sde.kind}}}`"
            yield Problem(("likelihood",), message, mend)
        if self.colourise and (spec.data.shape is None or spec.data.shape[0] != 3):
            yield Problem(("colourise",), "colourising needs three colour channels", "leave it out")

    def interval(self, target: Parameterization) -> Interval:
        return continuous_interval(replace(target, process=_sde(target.process)), self.kind)

    def end(self, target: Parameterization) -> float:
        self.interval(target)  # or a ValueError
        return target.process.last if target.process.data is None else target.process.data

    def table(self, target: Parameterization) -> Table:
        process, times = _sde(target.process), self._times(target)
        corrections = self.corrector_steps if self.corrector != "none" else 0
        predictor = self._predictor(target, times)
        corrector = self._corrector(process, times) if corrections else predictor
        columns = in_turn(corrector, predictor, corrections, self.denoise)
        columns |= _evaluation(target, np.repeat(times, corrections + 1))
        body = BATCH if self.norms == "batch" else SAMPLE
        return Table(self.kind, body, columns, prior=process.prior_scale(process.first), substeps=corrections + 1)

    def write(self, script: Script) -> None:
        target, process = script.target, _sde(script.process)
        corrects, annealed = self.corrector != "none", self.corrector == "annealed"
        stepped = in_steps(process, self.steps) is not None
        predictor = "euler_maruyama" if self.predictor == "reverse_diffusion" and not stepped else self.predictor
        if process is not script.process and (annealed or predictor == "euler_maruyama"):
            raise NoSourceError("the text has the formulas of the noise levels, so it cannot have those of their SDE")
        count, script.whole = "len(t)", isinstance(script.process, Discrete)
        script.prior = repr(process.prior_scale(process.first))
        if self.timesteps is None:
            interval = self.interval(target)
            ends = f"{interval.start!r}, {interval.stop!r}, {script.argument('steps', self.steps)}"
            script.line(f"t = {script.function(float32_linspace)}({ends})")
        else:
            script.line(f"t = np.array({list(self.timesteps)})")
        if stepped and (corrects or predictor in ("reverse_diffusion", "ancestral")):
            write_in_steps(script, process, "t", count)
        terms = "np.ones_like(t), np.zeros_like(t), np.zeros_like(t)"
        if predictor != "none":
            write_step(script, predictor, process, "t", count, 0.5 if self.probability_flow else 1.0)
            terms = "factor, score, noise"
        steps = script.function(predictor_steps, probability_flow=self.probability_flow)
        script.line(f"predictor = {steps}({terms})")
        times, given = "t", "predictor, predictor, 0"
        if corrects:
            steps = script.function(langevin_steps, annealed=annealed, **({} if annealed else {"sigma": None}))
            terms = f"{'keep' if stepped else 'np.ones_like(t)'}, {script.argument('snr', self.snr)}"
            terms += f", {script.alpha_sigma()}(t)[1]" if annealed else ""
            script.line(f"corrector = {steps}({terms})")
            number = script.argument("corrector_steps", self.corrector_steps)
            times, given = f"np.repeat(t, {number} + 1)", f"corrector, predictor, {number}"
        turns = f"{script.function(in_turn, denoise=self.denoise)}({given})"
        script.loop(_evaluation_text(script, times), turns)

    def _times(self, target: Parameterization) -> Array:
        if self.timesteps is not None:
            return np.array(self.timesteps)
        interval = self.interval(target)
        return float32_linspace(interval.start, interval.stop, self.steps)

    def _predictor(self, target: Parameterization, times: Array) -> dict[str, Array]:
        """The predictor's columns at each time."""
        of_score, count, process = 0.5 if self.probability_flow else 1.0, len(times), _sde(target.process)
        match self.predictor:
            case "none":
                terms = np.ones(count), np.zeros(count), np.zeros(count)
            case "reverse_diffusion":
                terms = reverse_diffusion(process, times, count, of_score)
            case "euler_maruyama":
                terms = euler_maruyama(process, times, count, of_score)
            case "ancestral":
                stepped, index = in_steps(process, count), index_of(times, count)
                if stepped is None:
                    own = target.process.steps if isinstance(target.process, Discrete | Geometric) else None
                    what = f"`{target.process.kind}`" + (f" of {own} steps" if own is not None else "")
                    raise ValueError(
                        f"ancestral sampling needs a process in discrete steps; {what} cannot be sampled in {count}"
                    )
                keep, added, ancestral = (column[index] for column in stepped)
                terms = 1 / keep, added / keep, ancestral
        return predictor_steps(*terms, self.probability_flow)

    def _corrector(self, process: Process, times: Array) -> dict[str, Array]:
        """A corrector's columns at each time."""
        count = len(times)
        stepped = in_steps(process, count)
        keep = np.ones(count) if stepped is None else stepped[0][index_of(times, count)]
        return langevin_steps(keep, self.snr, process.point(times).sigma, self.corrector == "annealed")

    def programs(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> tuple[Program, ...]:
        target = parameterization_of(spec.objective)
        assert target is not None
        found = [*super().programs(mb, networks, spec)]
        offered: dict[Edit, bool] = {"inpaint": self.inpaint, "colourise": self.colourise}
        edits = [edit for edit, wanted in offered.items() if wanted]
        if edits:
            table = self.model_copy(update={"denoise": False}).table(target)
            imposed, conditions = self._imposed(target, table.substeps), self.conditions(spec, networks)
            more = self.guides(mb, networks, target.process), self.around(mb, networks, spec)
            found += [edit_program(e, mb, networks["main"], conditions, table, imposed, spec, *more) for e in edits]
        if self.likelihood is not None:
            found += self.likelihood.programs(mb, networks, spec, target)
        return tuple(found)

    def _imposed(self, target: Parameterization, substeps: int) -> Imposed:
        """Known values are replaced after the correctors of a time and after its predictor, at that time."""
        times, point = self._times(target), _sde(target.process).point
        if substeps == 1:  # without correctors, replaced before the predictor instead
            return Imposed(point(np.append(times[1:], times[-1])), np.ones(len(times)), point(times[:1]), self.denoise)
        after = np.tile(np.arange(substeps) >= substeps - 2, len(times)).astype(np.float64)
        return Imposed(point(np.repeat(times, substeps)), after, None, self.denoise)


def _sde(process: Process) -> Process:
    """The process in continuous time, whose steps a process on discrete levels is."""
    found = limit(process)
    return process if found is None else found.sde


def _evaluation(target: Parameterization, times: Array) -> dict[str, Array]:
    """Columns that turn the network's output at times of the SDE into the score."""
    found = limit(target.process)
    if found is None:
        return evaluation(target.process, times, target.predicts, "score")
    return evaluation(target.process, found.timestep(times), target.predicts, "score") | {"t": found.time(times)}


def _evaluation_text(script: Script, times: str) -> str:
    """`_evaluation` as an expression."""
    process, evaluated = script.process, script.evaluation("score")
    if limit(process) is None:
        return f"{evaluated}({times})"
    given = f"({times}, {script.sources.constant('TIMESTEPS', timesteps_of(process))})"
    if isinstance(process, Geometric):
        return f"{evaluated}({script.function(level_number)}{given})"
    assert isinstance(process, Discrete)
    at = f"{script.function(timestep_of)}{given}"
    return f'{evaluated}(np.floor({at})) | {{"t": {at} + {process.time_offset!r}}}'


def predictor_steps(keep: Array, score: Array, noise: Array, probability_flow: bool) -> dict[str, Array]:
    """Coefficients of a predictor's steps: of x (keep), of the score and of noise; their step size is fixed."""
    added = np.zeros_like(noise) if probability_flow else noise
    return {"keep": keep, "score": score, "size": np.zeros_like(keep), "noise": added}


def langevin_steps(keep: Array, snr: float, sigma: Array, annealed: bool) -> dict[str, Array]:
    """Coefficients of a corrector's steps (Song et al. 2021, algorithms 4 and 5).

    The step size is `size` times the squared ratio of the norms of noise and score, or a part of `score` and `noise`.
    """
    size, one, zero = 2 * keep**2 * snr**2, np.ones_like(keep), np.zeros_like(keep)
    if annealed:
        size = size * sigma**2
        return {"keep": one, "score": size, "size": zero, "noise": np.sqrt(2 * size)}
    return {"keep": one, "score": zero, "size": size, "noise": zero}


def in_turn(
    corrector: dict[str, Array], predictor: dict[str, Array], corrections: int, denoise: bool
) -> dict[str, Array]:
    """`corrections` steps of the corrector, then one of the predictor at each time; the last may have no noise."""
    columns = {}
    for name, column in predictor.items():
        columns[name] = np.stack([*[corrector[name]] * corrections, column], axis=1).ravel()
    if denoise:
        columns["noise"][-1] = 0.0
    return columns


def float32_linspace(start: float, stop: float, count: int) -> Array:
    """Evenly spaced with both ends, as float32 rounds them (PyTorch's linspace)."""
    first, last = np.float32(start), np.float32(stop)
    step = (last - first) / np.float32(count - 1)
    i = np.arange(count, dtype=np.float32)
    return np.where(i < count // 2, first + step * i, last - step * (count - 1 - i)).astype(np.float64)


def _body(batch: bool) -> Body:
    def step(b: Builder, step: Step) -> tuple[Var, ...]:
        (x,), row = step.state, step.row
        score, z = step.estimate(b, x, step.evaluate(x, 0)), step.z
        assert z is not None
        if isinstance(row["size"], float) and row["size"] == 0.0:  # predictors only
            return (weighted_sum(b, "x", (row["keep"], x), (row["score"], score), (row["noise"], z)),)
        ratio = b.div(_norm(b, z, batch), b.maximum(_norm(b, score, batch), TINY), out="ratio")
        size = b.mul(row["size"], ratio * ratio, out="size")
        along = b.mul(_plus(b, row["score"], size), score, out="along")
        noise = b.mul(_plus(b, row["noise"], b.sqrt(size * 2.0)), z, out="noise")
        return (b.add(weighted_sum(b, "x", (row["keep"], x)) + along, noise, out="x"),)

    return Body(step)


TINY = 1e-30
"""Least norm of a score that a corrector divides by."""


def _plus(b: Builder, coefficient: Any, x: Var) -> Var:
    return x if isinstance(coefficient, float) and coefficient == 0.0 else b.add(x, coefficient)


def _norm(b: Builder, x: Var, batch: bool) -> Var:
    """The norm of each sample [B, 1, ...], or their mean [1, 1, ...]."""
    rank = len(x.shape)
    norm = b.sqrt(b.sum(x * x, axes=tuple(range(1, rank)), keepdims=True), out="norm")
    return b.mean(norm, axes=(0,), keepdims=True, out="norm") if batch else norm


SAMPLE, BATCH = _body(False), _body(True)
