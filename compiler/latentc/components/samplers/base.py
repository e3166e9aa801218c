"""What all denoising samplers share: steps, spacing, guidance, and how their program is built."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from latentc.components import Component, OneOf, load
from latentc.components.contract import Need, Network, Program
from latentc.components.guidance.classifier import ClassifierGuidance, slope_of
from latentc.components.kit import Conditions
from latentc.components.objective import Objective
from latentc.components.parts import Part, Problem
from latentc.components.processes.process import Parameterization, Process
from latentc.components.sampler import Guidance, Sampler
from latentc.components.samplers.grid import Grid
from latentc.components.samplers.program import sample_program
from latentc.components.samplers.spacings.spacing import Interval, Spacing
from latentc.components.samplers.spacings.timesteps import respaced
from latentc.components.samplers.table import Table
from latentc.ir.builder import ModuleBuilder

if TYPE_CHECKING:
    from latentc.spec.schema import Spec

Final = Literal["zero", "sigma_min"]


class ArraySampler(Sampler):
    """A sampler that denoises step by step: a table of coefficients, and from it a program over network `main`."""

    # fields that have no effect if another is given
    REPLACES: ClassVar[dict[str, tuple[str, ...]]] = {"timesteps": ("spacing",)}
    SPACING: ClassVar[str] = "even"
    BEYOND: ClassVar[bool] = False

    steps: int = Field(50, gt=0, le=100_000, description="how often the state is updated")
    spacing: Annotated[Component | None, OneOf("samplers/spacings", named=True)] = Field(
        None, description="how the steps are spread, a name or a component; null: as usual for the process and solver"
    )
    timesteps: tuple[float, ...] | None = Field(
        None,
        description="where the network is evaluated instead, in the process's time from noise to data (also between "
        "the whole timesteps of a schedule); sets steps",
    )
    guidance: Guidance | None = Field(None, description="classifier-free guidance; null: the network as it is")
    classifier: ClassifierGuidance | None = Field(
        None, description="guidance by the gradient of a classifier, also beside the other; null: none"
    )

    def model_post_init(self, context: Any) -> None:
        """Take the number of steps from a spacing that says it."""
        count = self.spacing.count if isinstance(self.spacing, Spacing) else None
        if count is None or count == self.steps or self.timesteps is not None:
            return
        if "steps" in self.model_fields_set:
            raise ValueError(f"`spacing` is {count} steps, not {self.steps}: leave `steps` out")
        self.__dict__["steps"] = count  # the one place that changes a frozen model

    @abstractmethod
    def table(self, target: Parameterization) -> Table:
        """The coefficients of a run over a network that is parameterized like `target`.

        ValueError: steps, times or conversions that do not exist.
        """

    def needs(self, spec: Spec) -> tuple[Need, ...]:
        judge = () if self.classifier is None else (Need(self.classifier.network, "classify"),)
        return (Need("main", "denoise"), *judge)

    @model_validator(mode="before")
    @classmethod
    def _steps_of_timesteps(cls, values: Any) -> Any:
        given = values.get("timesteps") if isinstance(values, dict) else None
        if not isinstance(given, list | tuple):
            return values
        if not given:
            raise ValueError("there are no timesteps in `timesteps`: leave it out, or name one")
        if values.get("steps", len(given)) != len(given):
            raise ValueError(f"there are {len(given)} timesteps: `steps: {values['steps']}` is not their number")
        return {**values, "steps": len(given)}

    def interval(self, target: Parameterization) -> Interval:
        """The part of the process that the steps cover."""
        process = target.process
        return Interval(process.first, process.last, process.data, self.BEYOND)

    def end(self, target: Parameterization) -> float:
        """Time at which the last step ends."""
        interval = self.interval(target)
        return interval.stop if interval.closing is None else interval.closing

    def grid(self, target: Parameterization) -> Grid:
        """Where the solver evaluates, and where it ends. ValueError: there is no such grid."""
        if self.timesteps is not None:
            return Grid(target.process, np.array([*self.timesteps, self.end(target)], np.float64))
        return self.spacing_of(target.process).grid(target.process, self.steps, self.interval(target))

    def spacing_of(self, process: Process) -> Spacing:
        """The spacing given, or the usual one."""
        if isinstance(self.spacing, Spacing):
            return self.spacing
        kind = process.SPACING or self.SPACING
        usual = load("samplers/spacings")[kind](kind=kind)
        assert isinstance(usual, Spacing)
        return usual

    def changed(self, name: str) -> bool:
        """Whether a field differs from its default (a resolved spec writes every default out)."""
        return bool(getattr(self, name) != type(self).model_fields[name].default)

    def problems(self, spec: Spec) -> Iterator[Problem]:
        target = parameterization_of(spec.objective)
        if target is None:
            what = "nothing" if spec.objective is None else f"`{spec.objective.kind}`"
            kinds = [kind for kind, cls in load("objectives").items() if getattr(cls, "DENOISES", False)]
            message = f"`{self.kind}` denoises step by step, and the objective {what} trains no network for that"
            yield Problem(("kind",), message, f"objectives that do: {', '.join(kinds)}")
            return
        if isinstance(spec.objective, Part) and any(True for _ in spec.objective.problems(spec)):
            return  # the objective says what is wrong
        for name, others in self.REPLACES.items():
            for other in others:
                if self.changed(name) and self.changed(other):
                    message = f"`{name}` already chooses where to evaluate"
                    yield Problem((other,), message, f"keep one of `{name}`, `{other}`")
        try:
            end = self.end(target)
        except ValueError as error:
            yield Problem(("kind",), str(error), "use a sampler such as `ddim`, `heun` or `dpm_solver_pp`")
            return
        misplaced = [] if self.timesteps is None else list(_misplaced(self.timesteps, target.process, end))
        yield from misplaced
        if not misplaced:
            try:
                self.table(target)
            except ValueError as error:
                yield Problem(("steps" if self.timesteps is None else "timesteps",), str(error))
        if self.guidance is not None:
            yield from guidance_problems(self.guidance, spec)
        if self.classifier is not None:
            for problem in self.classifier.problems(spec):
                yield replace(problem, path=("classifier", *problem.path))

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> Program:
        """Adds entry `sample.STEPS`; see `program.sample_program`.

        ValueError: what `problems` would have said.
        """
        target = parameterization_of(spec.objective)
        if target is None:
            raise ValueError(f"`{self.kind}` needs an objective that trains a denoiser")
        guidance, stitch = self.guidance, spec.optimize.stitch
        given: dict[str, Any] = {}
        if guidance is not None:
            given["guided"] = guidance.acts
            given |= {"scale": guidance.scale, "channels": guidance.channels}
        if self.classifier is not None:
            given["classifier"] = (slope_of(mb, networks[self.classifier.network]), self.classifier.scale)
        if stitch is not None:
            early = networks[stitch.network]
            given["instead"] = lambda progress: early if progress < stitch.until else None
        conditions = Conditions(spec, networks)
        if self.classifier is not None:  # it is asked for the class, which no network need be told
            told = [name for name, _ in conditions.items()]
            conditions = Conditions(spec, networks, (*told, "class"))
        entry = f"sample.{self.steps}"
        return sample_program(mb, networks["main"], conditions, self.table(target), entry=entry, **given)

    def with_steps(self, steps: int) -> ArraySampler:
        if steps == self.steps:
            return self
        changes: dict[str, Any] = {"steps": steps, "timesteps": None}
        if isinstance(self.spacing, Spacing) and self.spacing.count is not None:
            changes["spacing"] = None
        return self.model_copy(update=changes)


def parameterization_of(objective: object) -> Parameterization | None:
    """What the network of an objective predicts, None for one that trains no denoiser (or none at all)."""
    return objective.parameterization() if isinstance(objective, Objective) else None


def _misplaced(timesteps: tuple[float, ...], process: Process, end: float) -> Iterator[Problem]:
    """Timesteps outside the process, or that do not run from noise to data."""
    rising = process.last > process.first
    for i, t in enumerate(timesteps):
        if not process.has(t) or (t >= end if rising else t <= end):
            before = f", before {end:g}" if process.has(end) else ""
            message = f"there is no timestep {t:g} here: they run from {process.first:g} to {process.last:g}{before}"
            yield Problem(("timesteps", i), message)
        elif i and (t <= timesteps[i - 1] if rising else t >= timesteps[i - 1]):
            way = f"{'rise' if rising else 'fall'} from noise ({process.first:g}) to data ({process.last:g})"
            message = f"timestep {t:g} comes after {timesteps[i - 1]:g}"
            yield Problem(("timesteps", i), message, f"timesteps {way}, each once")


def guidance_problems(guidance: Guidance, spec: Spec) -> Iterator[Problem]:
    if isinstance(spec.objective, Objective) and spec.objective.DISTILS:
        message = f"`{spec.objective.kind}` trains a network that is never without its conditions"
        yield Problem(("guidance",), message, "set `sampler.guidance: null`: the network has learned guidance")
    elif not any(condition.nullable for condition in spec.conditions.values()):
        name = next(iter(spec.conditions), "class")
        message = f"guidance needs a network trained without its condition now and then, but `{name}` is never dropped"
        help_text = f"set `conditioning.{name}.dropout` to 0.1, or leave `guidance` out"
        yield Problem(("guidance",), message, help_text)
    if guidance.interval[0] > guidance.interval[1]:
        yield Problem(("guidance", "interval"), "the interval ends before it starts", "from noise (0) to data (1)")
    if guidance.channels is not None and spec.data.shape is not None and guidance.channels > spec.data.shape[0]:
        message = f"{guidance.channels} channels are guided, of data that has {spec.data.shape[0]}"
        yield Problem(("guidance", "channels"), message)


class Ancestral(ArraySampler):
    """A sampler whose timesteps improved DDPM's respacing text may choose, down to the data."""

    REPLACES: ClassVar[dict[str, tuple[str, ...]]] = {
        "respacing": ("spacing",),
        "timesteps": ("spacing", "respacing"),
    }

    respacing: str | None = Field(
        None, description="improved DDPM's text instead: '10', '10,20' (a count per section) or 'ddim25'; sets steps"
    )
    clip: float | None = Field(
        None, gt=0, description="bound of the estimated data, in its units (1 for pixels in -1…1); null: none"
    )
    clip_state: float | None = Field(
        None, gt=0, description="bound of the state after every step, in units of the data (DiffWave: 1); null: none"
    )

    @model_validator(mode="before")
    @classmethod
    def _steps_of_respacing(cls, values: Any) -> Any:
        if not isinstance(values, dict) or values.get("respacing") is None:
            return values
        text = str(values["respacing"])
        parts = text.removeprefix("ddim").split(",")
        if not all(part.strip().isdecimal() for part in parts):
            raise ValueError(f"respacing {text!r}: a count, counts with commas, or ddim with a count")
        count = sum(int(part) for part in parts)
        if values.get("steps", count) != count:
            raise ValueError(f"respacing {text!r} is {count} steps, not {values['steps']}: leave `steps` out")
        return {**values, "respacing": text, "steps": count}

    def with_steps(self, steps: int) -> ArraySampler:
        sampler = super().with_steps(steps)
        return sampler if sampler is self else sampler.model_copy(update={"respacing": None})

    def interval(self, target: Parameterization) -> Interval:
        # A path's data end is reached by a step of its own: its last evaluation is before it.
        process = target.process
        if process.data != process.last:
            return super().interval(target)
        return path_interval(target, 1e-3)

    def grid(self, target: Parameterization) -> Grid:
        if self.respacing is None or self.timesteps is not None:
            return super().grid(target)
        process = target.process
        if process.SPACING is not None:
            raise ValueError("`respacing` chooses timesteps of a discrete schedule")
        times = respaced(round(process.first) + 1, self.respacing).astype(np.float64)
        return Grid(process, np.append(times, process.data))


def path_interval(target: Parameterization, eps: float, data: bool = True) -> Interval:
    """The times of a path on which a solver in noise levels is finite: from `eps` if alpha is 0 at the noise.

    With `data` the last step ends at the data, else `eps` before.
    """
    process = target.process
    start = eps if process.point(process.first).alpha == 0.0 else process.first
    return Interval(start, process.last if data else process.last - eps)
