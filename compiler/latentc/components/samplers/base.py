"""The base of all denoising samplers: steps, spacing, guidance, and how their program is built."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from latentc.components import Component, OneOf, find, load
from latentc.components.condition import DrawnInput, GivenInput
from latentc.components.contract import Need, Network, Program
from latentc.components.formula_source import NoSourceError
from latentc.components.guidance.guidance import Guidance, GuidanceTerm, Guide, ScoreTerm
from latentc.components.kit import Conditions
from latentc.components.objective import Objective
from latentc.components.parts import Part, Problem, Spec, under
from latentc.components.processes.process import Parameterization, Process
from latentc.components.sampler import Sampler, wrappers
from latentc.components.samplers.grid import Grid
from latentc.components.samplers.guided import Around, Replaced
from latentc.components.samplers.program import sample_program
from latentc.components.samplers.script import Script
from latentc.components.samplers.spacings.spacing import Interval, Spacing
from latentc.components.samplers.table import Table
from latentc.ir.builder import ModuleBuilder

GuidanceTerms = Annotated[
    GuidanceTerm | tuple[GuidanceTerm, ...] | None, OneOf("guidance", default="classifier_free", many=True)
]


class GuidedSampler(Sampler):
    """A sampler with a field `guidance`: a term, a list of them or null."""

    if TYPE_CHECKING:
        guidance: GuidanceTerms

    def needs(self, spec: Spec) -> tuple[Need, ...]:
        found = [Need("main", "denoise")]
        for path, term in self.terms():
            asks = f"guidance by `{term.kind}`"
            found += [replace(need, place=(*path, *need.place), who=asks) for need in term.needs()]
        return tuple(found)

    def terms(self) -> list[tuple[tuple[str | int, ...], GuidanceTerm]]:
        """The terms of guidance with their paths in the sampler."""
        if isinstance(self.guidance, GuidanceTerm):
            return [(("guidance",), self.guidance)]
        return [(("guidance", i), term) for i, term in enumerate(self.guidance or ())]

    def guides(self, mb: ModuleBuilder, networks: Mapping[str, Network], process: Process) -> list[Guide]:
        """The terms of guidance as a program has them; may add functions to the module."""
        terms = [term for _, term in self.terms()]
        inputs = _numbered([term.INPUT for term in terms])
        every = zip(inputs, self.settings(), terms, strict=True)
        return [
            Guide(key, name, term.scale, weights, how, part)
            for key, name, term in every
            for part, weights, how in term.directions(mb, networks, process)
        ]

    def settings(self) -> list[str]:
        """The names of the terms' scales in requests."""
        terms = [term for _, term in self.terms()]
        usual = _numbered([term.SETTING for term in terms])
        return [term.name or name for term, name in zip(terms, usual, strict=True)]

    def conditions(self, spec: Spec, networks: Mapping[str, Network]) -> Conditions:
        """The conditions of a request: those that networks take, and those that only guidance reads."""
        own = Conditions(spec, networks)
        also = [name for _, term in self.terms() for name in term.reads()]
        return Conditions(spec, networks, (*(name for name, _ in own.items()), *also)) if also else own

    def guided_view(self, mb: ModuleBuilder, main: Network, view: Network) -> Network:
        """`view` of the network `main`, with the methods that the terms call."""
        for _, term in self.terms():
            view = term.prepared(mb, view)
        return replace(view, methods={**view.methods, "forward": main.methods["forward"]})

    def setting_problems(self, spec: Spec) -> Iterator[Problem]:
        """Two scales, or a scale and a condition, that requests would set by one name."""
        settings, taken = self.settings(), _settings_of_conditions(spec)
        for (path, _), name in zip(self.terms(), settings, strict=True):
            if settings.count(name) > 1:
                yield Problem(
                    (*path, "name"), f"two terms of guidance are named `{name}`", "give each term its own `name`"
                )
            elif name in taken:
                message = f"condition `{taken[name]}` is already set by requests as `{name}`"
                yield Problem((*path, "name"), message, "give this guidance another `name`")


def _settings_of_conditions(spec: Spec) -> dict[str, str]:
    """{setting of requests: condition that it is the value of}."""
    inputs = ((name, given) for name, condition in spec.conditions.items() for given in condition.inputs(name, spec))
    return {given.setting.name: name for name, given in inputs if isinstance(given, DrawnInput)}


def _numbered(names: Sequence[str]) -> list[str]:
    """The names, with _2, _3, … at the second, third, … of a name."""
    counts = [names[: i + 1].count(name) for i, name in enumerate(names)]
    return [name if count == 1 else f"{name}_{count}" for name, count in zip(names, counts, strict=True)]


Final = Literal["zero", "sigma_min"]


class ArraySampler(GuidedSampler):
    """A sampler that denoises step by step: a table of coefficients, and from it a program over network `main`."""

    # fields that have no effect if another is given
    REPLACES: ClassVar[dict[str, tuple[str, ...]]] = {"timesteps": ("spacing",)}
    SPACING: ClassVar[str] = "even"
    BEYOND: ClassVar[bool] = False
    # fields that add programs besides `sample`
    PROGRAMS: ClassVar[tuple[str, ...]] = ()
    WRAPPABLE: ClassVar[bool] = True
    # true if its solution in many steps counts as exact; true for one kind
    REFERENCE: ClassVar[bool] = False

    steps: int = Field(50, gt=0, le=100_000, description="number of updates of the state")
    spacing: Annotated[Component | None, OneOf("samplers/spacings", named=True)] = Field(
        None, description="spacing of the steps, a name or a component; null: the default for process and solver"
    )
    timesteps: tuple[float, ...] | None = Field(
        None,
        max_length=100_000,
        description="explicit evaluation times in the process's time, from noise to data (timesteps may be "
        "fractional); sets steps",
    )
    guidance: GuidanceTerms = Field(
        None, description="one guidance term (classifier-free by default) or a list of them; null: none"
    )

    @abstractmethod
    def table(self, target: Parameterization) -> Table:
        """The coefficients of a run over a network that is parameterized like `target`.

        ValueError: steps, times or conversions that do not exist.
        """

    def shares(self, network: str) -> tuple[float, ...]:
        return tuple(dict.fromkeys(share for _, term in self.terms() for share in term.shares(network)))

    def runs(self, target: Parameterization) -> int:
        """Runs of a network per sample, those for guidance included."""
        every = list(map(float, self.table(target).all_progress))
        return len(every) + sum(term.runs * int(np.count_nonzero(term.weights(every))) for _, term in self.terms())

    @property
    def guidance_interval(self) -> tuple[float, float] | None:
        """Where guidance acts, if it is one term that an interval can restrict and its scale is not 1."""
        term = self.guidance
        return term.interval if isinstance(term, Guidance) and term.scale != 1.0 else None

    def guided_in(self, interval: tuple[float, float]) -> Self:
        """The sampler with its one term of guidance restricted to part of the way from noise (0) to data (1)."""
        assert isinstance(self.guidance, GuidanceTerm)
        return self.model_copy(update={"guidance": self.guidance.model_copy(update={"interval": interval})})

    def prepare(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> Mapping[str, Network]:
        main = view = networks["main"]
        for wrapper in wrappers(spec):
            view = wrapper.prepared(mb, view, spec)
        return {**networks, "main": self.guided_view(mb, main, view)}

    def around(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> list[Around]:
        """The changes of its evaluations by `optimize.stitch` and by the programs around it, in order."""
        found: list[Around] = []
        if (stitch := spec.optimize.stitch) is not None:
            small, until = networks[stitch.network], stitch.until
            found.append(Replaced(lambda progress: small if progress < until else None))
        given = (wrapper.wrapped(mb, networks, spec, self) for wrapper in wrappers(spec))
        return [*found, *(one for one in given if one is not None)]

    @model_validator(mode="before")
    @classmethod
    def _with_steps(cls, values: Any) -> Any:
        """The number of steps follows from `timesteps`, or from a spacing that has one."""
        given = values.get("timesteps") if isinstance(values, dict) else None
        if isinstance(given, list | tuple):
            if not given:
                raise ValueError("`timesteps` is empty: leave it out, or give at least one")
            count, says = len(given), f"`timesteps` has {len(given)} entries"
        elif isinstance(values, dict) and (own := _count_of(values.get("spacing"))) is not None:
            count, says = own, f"`spacing` has {own} steps"
        else:
            return values
        if values.get("steps", count) != count:
            raise ValueError(f"{says}, but `steps` is {values['steps']}: leave `steps` out")
        return {**values, "steps": count}

    @classmethod
    def variants(cls, process: Process) -> list[dict[str, Any]]:
        """Fields of the deterministic variants that a search for fewer steps tries on `process`; by default none."""
        return []

    def shared(self) -> dict[str, Any]:
        """Fields that another solver needs to sample the same: by default the guidance."""
        return {"guidance": self.guidance}

    def interval(self, target: Parameterization) -> Interval:
        """The part of the process that the steps cover."""
        process = target.process
        return Interval(process.first, process.last, process.data, self.BEYOND)

    def end(self, target: Parameterization) -> float:
        """Time at which the last step ends."""
        interval = self.interval(target)
        return interval.stop if interval.closing is None else interval.closing

    def grid(self, target: Parameterization) -> Grid:
        """The times of the evaluations and of the end. ValueError: there is no such grid."""
        if self.timesteps is not None:
            return Grid(target.process, np.array([*self.timesteps, self.end(target)], np.float64))
        return self.spacing_of(target.process).grid(target.process, self.steps, self.interval(target))

    def write_grid(self, script: Script) -> None:
        """Writes the line of the times `t` f64[N + 1]. NoSourceError: the spacing has no text."""
        if self.timesteps is not None:
            script.alpha_sigma()
            times = ", ".join(repr(float(t)) for t in (*self.timesteps, self.end(script.target)))
            script.line(f"t = np.array([{times}])")
            return
        spacing = self.spacing_of(script.process)
        if spacing.count is None:
            script.argument("steps", self.steps)
        spacing.write(script, self.steps, self.interval(script.target))

    def write(self, script: Script) -> None:
        """Writes the table as formulas. NoSourceError: it has none."""
        raise NoSourceError(f"`{self.kind}` has no formulas")

    def schedule(self, target: Parameterization) -> Script | None:
        """The table as formulas; None if it has none."""
        script = Script(target)
        try:
            self.write(script)
        except NoSourceError:
            return None
        return script

    def spacing_of(self, process: Process) -> Spacing:
        """The spacing given, or the usual one."""
        if isinstance(self.spacing, Spacing):
            return self.spacing
        kind = self.SPACING if process.WHOLE else process.DEFAULTS.spacing
        usual = find("samplers/spacings", kind)
        assert usual is not None and issubclass(usual, Spacing)
        return usual(kind=kind)

    def changed(self, name: str) -> bool:
        """True if a field differs from its default (a resolved spec writes every default out)."""
        return bool(getattr(self, name) != type(self).model_fields[name].default)

    def problems(self, spec: Spec) -> Iterator[Problem]:
        target = parameterization_of(spec.objective)
        if target is None:
            what = "there is no objective" if spec.objective is None else f"`{spec.objective.kind}` trains none"
            objectives = load("objectives").items()
            kinds = [k for k, c in objectives if c.parameterization is not Objective.parameterization]  # type: ignore[attr-defined]
            message = f"`{self.kind}` needs a denoiser, but {what}"
            yield Problem(("kind",), message, f"objectives that do: {', '.join(kinds)}")
            return
        if isinstance(spec.objective, Part) and any(True for _ in spec.objective.problems(spec)):
            return  # the objective reports what is wrong
        made = spec.sampler.makes() if isinstance(spec.sampler, Sampler) else ()
        for name, condition in spec.conditions.items():
            encoded = [i for i in condition.inputs(name, spec) if isinstance(i, GivenInput) and i.encoder is not None]
            of_sample = any(given.field == "x" for given in encoded)
            if of_sample and name not in made:
                message = f"condition `{name}` is encoded from the sample, which `{self.kind}` has yet to draw"
                yield Problem(
                    ("kind",), message, "use a sampler in stages, each of which draws the condition of the next"
                )
                return
        for name, others in self.REPLACES.items():
            for other in others:
                if self.changed(name) and self.changed(other):
                    message = f"`{name}` already determines where the network is evaluated"
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
                table = self.table(target)
            except ValueError as error:
                yield Problem(("steps" if self.timesteps is None else "timesteps",), str(error))
            else:
                yield from self._idle(table)
        for name in filter(self.changed, self.PROGRAMS):
            yield from under(name, problems=target.noise_problems(spec, f"program `{name}`"))
        yield from self.setting_problems(spec)

    def _idle(self, table: Table) -> Iterator[Problem]:
        """Terms that are to change the score, and do so in no step."""
        for path, term in self.terms():
            if isinstance(term, ScoreTerm) and not table.guided(term.weights):
                message = "this guidance has no effect: its `interval` contains no evaluation except at pure noise"
                yield Problem(
                    path, message, "use more steps or a wider `interval`: a flow's first evaluation is at pure noise"
                )

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> Program:
        """Adds entry `sample.STEPS`; see `program.sample_program`.

        ValueError: a problem that `problems` reports.
        """
        target = parameterization_of(spec.objective)
        if target is None:
            raise ValueError(f"`{self.kind}` needs an objective that trains a denoiser")
        around = self.around(mb, networks, spec)
        conditions = self.conditions(spec, networks)
        guides = self.guides(mb, networks, target.process)
        more: dict[str, Any] = {"guides": guides, "around": around, "coupling": target.coupling}
        shape = networks["main"].methods["forward"].input("state").type.shape[1:]
        more["kernel"] = target.process.kernel([int(size) for size in shape])  # type: ignore[arg-type]
        program = sample_program(
            mb, networks["main"], conditions, self.table(target), **more, entry=f"sample.{self.steps}"
        )
        return replace(program, schedule=partial(self.schedule, target))

    def programs(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> tuple[Program, ...]:
        own = self.build(mb, networks, spec)
        return (own, *(p for wrapper in wrappers(spec) for p in wrapper.programs(mb, networks, spec, self)))

    def with_steps(self, steps: int) -> ArraySampler:
        if steps == self.steps:
            return self
        changes: dict[str, Any] = {"steps": steps, "timesteps": None}
        if isinstance(self.spacing, Spacing) and self.spacing.count is not None:
            changes["spacing"] = None
        return self.model_copy(update=changes)

    def with_timesteps(self, timesteps: Iterable[float]) -> Self:
        """The same sampler at these timesteps; fields that `timesteps` replaces get their defaults."""
        fields = type(self).model_fields
        cleared = {name: fields[name].default for name in self.REPLACES.get("timesteps", ()) if name in fields}
        times = tuple(float(t) for t in timesteps)
        return self.model_copy(update={**cleared, "timesteps": times, "steps": len(times)})


class ClippedSampler(ArraySampler):
    """One that may bound the estimated data."""

    clip: float | None = Field(
        None, gt=0, description="bound on the data estimate, in its units (1 for pixels in -1…1); null: none"
    )

    def shared(self) -> dict[str, Any]:
        return super().shared() | ({} if self.clip is None else {"clip": self.clip})


def _count_of(spacing: Any) -> int | None:
    """The number of steps that a spacing fixes, as a spec writes it; None if there is none or it is invalid."""
    try:
        found = OneOf("samplers/spacings", named=True).validated(spacing)
    except ValueError:  # validation of `spacing` reports it
        return None
    return found.count if isinstance(found, Spacing) else None


def inner_problems(sampler: ArraySampler, why: str) -> Iterator[Problem]:
    """Fields that have no effect in a sampler that runs inside another; paths relative to it."""
    for name in sampler.PROGRAMS:
        if sampler.changed(name):
            yield Problem((name,), f"`{name}` needs a sampler of whole arrays, but {why}", "leave it out")


def spaced(process: Process, *spacings: str, **fields: Any) -> list[dict[str, Any]]:
    """Variants of a sampler: `fields` with its usual spacing, and with each of `spacings` that suits the process."""
    return [{**fields, "spacing": name} for name in (None, *spacings) if name is None or name in process.DEFAULTS.tried]


def parameterization_of(objective: object) -> Parameterization | None:
    """The parameterization of an objective's network; None if the objective is None or trains no denoiser."""
    return objective.parameterization() if isinstance(objective, Objective) else None


def _misplaced(timesteps: tuple[float, ...], process: Process, end: float) -> Iterator[Problem]:
    """Timesteps outside the process, or that do not run from noise to data."""
    rising, (low, high) = process.last > process.first, sorted(process.bounds)
    for i, t in enumerate(timesteps):
        if not low <= t <= high or (t >= end if rising else t <= end):
            before = f", before {end:g}" if low <= end <= high else ""
            message = (
                f"timestep {t:g} is out of range: the process runs from {process.first:g} to {process.last:g}{before}"
            )
            yield Problem(("timesteps", i), message)
        elif i and (t <= timesteps[i - 1] if rising else t >= timesteps[i - 1]):
            way = f"{'rise' if rising else 'fall'} from noise ({process.first:g}) to data ({process.last:g})"
            message = f"timestep {t:g} comes after {timesteps[i - 1]:g}"
            yield Problem(("timesteps", i), message, f"timesteps {way}, each once")


def continuous_interval(target: Parameterization, kind: str) -> Interval:
    """The times of a process in continuous time at which velocity and score are finite.

    ValueError: a process on discrete levels.
    """
    process = target.process
    if process.point(process.first).d_alpha is None:
        raise ValueError(f"`{kind}` needs a process in continuous time, but `{process.kind}` has time steps")
    if process.data != process.last:
        return Interval(process.first, process.last)
    return path_interval(target, 1e-3, data=False)


def path_interval(target: Parameterization, eps: float, data: bool = True) -> Interval:
    """The times of a path on which a solver in noise levels is finite: from `eps` if alpha is 0 at the noise.

    With `data` the last step ends at the data, else `eps` before.
    """
    process = target.process
    inset = eps if process.last > process.first else -eps
    start = process.first + inset if process.point(process.first).alpha == 0.0 else process.first
    return Interval(start, process.last if data else process.last - inset)
