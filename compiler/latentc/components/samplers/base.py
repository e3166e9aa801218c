"""What all samplers of arrays share: steps, guidance, where they evaluate, and how their program is built."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from latentc.components import load
from latentc.components.contract import Need, Network, SampleProgram
from latentc.components.kit import Conditions
from latentc.components.parts import Guidance, Problem, Sampler
from latentc.components.process import Family, Process, process_of
from latentc.components.samplers import tables
from latentc.components.samplers.program import sample_program
from latentc.components.samplers.tables import Grid, Table
from latentc.components.schedules import Path, Schedule
from latentc.ir.builder import ModuleBuilder

if TYPE_CHECKING:
    from latentc.spec.schema import Spec

Spacing = Literal["even", "leading", "trailing", "linspace"]
Final = Literal["zero", "sigma_min"]


class ArraySampler(Sampler):
    """A sampler of arrays: its table of coefficients, and from that its program over network `main`."""

    # the processes it samples, and the fields that mean something for one of them alone
    PROCESSES: ClassVar[tuple[Family, ...]] = ("diffusion", "flow")
    OF_PROCESS: ClassVar[dict[str, Family]] = {}
    # fields that decide alone what others would
    REPLACES: ClassVar[dict[str, tuple[str, ...]]] = {}

    steps: int = Field(50, gt=0, le=100_000, description="how often the state is updated")
    timesteps: tuple[float, ...] | None = Field(
        None,
        description="where the network is evaluated instead, in its own times from noise to data: a schedule's "
        "timesteps fall (also between whole ones), a flow's times rise; sets steps",
    )
    guidance: Guidance | None = Field(None, description="classifier-free guidance; null: the network as it is")

    @abstractmethod
    def table(self, process: Process) -> Table:
        """The coefficients of a run on `process`.

        ValueError: steps, times or conversions that do not exist.
        """

    def needs(self, spec: Spec) -> tuple[Need, ...]:
        return (Need("main", "denoise"),)

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

    def stop(self, process: Process) -> float:
        """The flow's time at which the last step ends; that of a schedule is the data."""
        return 1.0

    def changed(self, name: str) -> bool:
        """Whether a field differs from its default (a resolved spec writes every default out)."""
        return bool(getattr(self, name) != type(self).model_fields[name].default)

    def problems(self, spec: Spec) -> Iterator[Problem]:
        process = process_of(spec.objective)
        if process is None or process.family not in self.PROCESSES:
            what = "nothing" if spec.objective is None else f"`{spec.objective.kind}`"
            wanted = " or ".join(f"`{family}`" for family in self.PROCESSES)
            message = f"`{self.kind}` samples {wanted} objectives; this one is {what}"
            yield Problem(("kind",), message, _samplers_of(process) or f"use an objective that is {wanted}")
            return
        for name, family in self.OF_PROCESS.items():
            if family != process.family and self.changed(name):
                yield Problem((name,), f"`{name}` has no meaning for a {process.family} objective", "leave it out")
        for name, others in self.REPLACES.items():
            for other in others:
                if self.changed(name) and self.changed(other):
                    message = f"`{name}` already chooses where to evaluate"
                    yield Problem((other,), message, f"keep one of `{name}`, `{other}`")
        misplaced = [] if self.timesteps is None else list(_misplaced(self.timesteps, process, self.stop(process)))
        yield from misplaced
        if not misplaced:
            try:
                self.table(process)
            except ValueError as error:
                yield Problem(("steps" if self.timesteps is None else "timesteps",), str(error))
        if self.guidance is not None:
            yield from guidance_problems(self.guidance, spec)

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> SampleProgram:
        """Adds entry `sample.STEPS`; see `program.sample_program`.

        ValueError: what `problems` would have said.
        """
        process = process_of(spec.objective)
        if process is None:
            raise ValueError(f"`{self.kind}` needs a diffusion or flow objective")
        guidance, stitch = self.guidance, spec.optimize.stitch
        given: dict[str, Any] = {}
        if guidance is not None:
            low, high = guidance.interval
            given["guided"] = lambda t: low <= float(process.progress(t)) <= high
            given |= {"scale": guidance.scale, "channels": guidance.channels}
        if stitch is not None:
            early = networks[stitch.network]
            given["instead"] = lambda t: early if float(process.progress(t)) < stitch.until else None
        return sample_program(
            mb,
            networks["main"],
            Conditions(spec, networks),
            self.table(process),
            entry=f"sample.{self.steps}",
            **given,
        )

    def with_steps(self, steps: int) -> ArraySampler:
        return self if steps == self.steps else self.model_copy(update={"steps": steps, "timesteps": None})


def _samplers_of(process: Process | None) -> str:
    """Which samplers take what an objective trains; empty where none does."""
    family = process.family if process else None
    kinds = [kind for kind, cls in load("samplers").items() if family in getattr(cls, "PROCESSES", ())]
    return f"samplers of {family} objectives: {', '.join(kinds)}" if kinds else ""


def _misplaced(timesteps: tuple[float, ...], process: Process, stop: float) -> Iterator[Problem]:
    """Timesteps that the process does not have, or that do not go from noise to data."""
    flow = process.schedule is None
    end = stop if process.schedule is None else float(process.schedule.steps - 1)
    for i, t in enumerate(timesteps):
        if not 0.0 <= t <= end or (flow and t == end):
            has = f"a flow's steps start at times from 0 to below {end:g}" if flow else f"the schedule has 0 to {end:g}"
            yield Problem(("timesteps", i), f"there is no timestep {t:g} here: {has}")
        elif i and (t <= timesteps[i - 1] if flow else t >= timesteps[i - 1]):
            way = "rise from noise (0) to data (1)" if flow else f"fall from noise ({end:g}) to data (0)"
            message = f"timestep {t:g} comes after {timesteps[i - 1]:g}"
            yield Problem(("timesteps", i), message, f"timesteps {way}, each once")


def guidance_problems(guidance: Guidance, spec: Spec) -> Iterator[Problem]:
    if not any(condition.nullable for condition in spec.conditions.values()):
        name = next(iter(spec.conditions), "class")
        message = f"guidance needs a network trained without its condition now and then, but `{name}` is never dropped"
        help_text = f"set `conditioning.{name}.dropout` to 0.1, or leave `guidance` out"
        yield Problem(("guidance",), message, help_text)
    if guidance.interval[0] > guidance.interval[1]:
        yield Problem(("guidance", "interval"), "the interval ends before it starts", "from noise (0) to data (1)")
    if guidance.channels is not None and spec.data.shape is not None and guidance.channels > spec.data.shape[0]:
        message = f"{guidance.channels} channels are guided, of data that has {spec.data.shape[0]}"
        yield Problem(("guidance", "channels"), message)


class Respaced(ArraySampler):
    """A sampler on whole timesteps of a schedule, chosen as improved DDPM and DiT do, or as diffusers
    does."""

    REPLACES: ClassVar[dict[str, tuple[str, ...]]] = {
        "respacing": ("spacing",),
        "timesteps": ("spacing", "offset", "respacing"),
    }

    spacing: Spacing = Field(
        "even", description="timesteps: even (first to last, as DiT), or diffusers' leading, trailing, linspace"
    )
    offset: int = Field(0, ge=0, description="added to the timesteps of leading spacing")
    respacing: str | None = Field(
        None, description="improved DDPM's text instead: '10', '10,20' (a count a section) or 'ddim25'; sets steps"
    )
    clip: float | None = Field(
        None, gt=0, description="bound of the estimated data, in its units (1 for pixels in -1…1); null: none"
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

    def with_steps(self, steps: int) -> Respaced:
        changes = {"steps": steps, "respacing": None, "timesteps": None}
        return self if steps == self.steps else self.model_copy(update=changes)

    def grid(self, process: Process) -> Grid:
        """The chosen timesteps, down to the data."""
        schedule = schedule_of(process)
        if self.timesteps is not None:
            return tables.discrete_grid(schedule, self.timesteps)
        if self.respacing is not None:
            return tables.discrete_grid(schedule, tables.respaced(schedule.steps, self.respacing))
        return spaced_grid(schedule, self.steps, self.spacing, self.offset)


def schedule_of(process: Process) -> Schedule:
    """The process's schedule; ValueError for a flow."""
    if process.schedule is None:
        raise ValueError("a flow has no discrete schedule")
    return process.schedule


def path_of(process: Process) -> Path:
    """The process's path; ValueError for a diffusion."""
    if process.path is None:
        raise ValueError("a diffusion has no path")
    return process.path


def spaced_grid(schedule: Schedule, steps: int, spacing: Spacing, offset: int = 0) -> Grid:
    """The grid of evenly chosen timesteps, down to the data."""
    if spacing == "even":
        return tables.discrete_grid(schedule, tables.respaced(schedule.steps, str(steps)))
    return tables.discrete_grid(schedule, tables.spaced(schedule.steps, steps, spacing, offset))


def ode_interval(process: Process, path: Path, eps: float) -> tuple[float, float]:
    """Times (start, stop) of a flow's ordinary differential equation (SiT's `check_interval`).

    `eps` is kept from the ends where the velocity is singular there: from the data on vp, from both ends
    where a linear or gvp path's velocity comes out of another prediction.
    """
    if path.kind == "vp":
        return 0.0, 1.0 - eps
    return (0.0, 1.0) if process.predicts == "flow_velocity" else (eps, 1.0 - eps)
