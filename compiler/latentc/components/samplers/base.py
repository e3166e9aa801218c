"""What all samplers of arrays share: steps, guidance, where they evaluate, and how their program is built."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from latentc.components import Closed, Component
from latentc.components.contract import Network, SampleProgram
from latentc.components.process import Family, Process
from latentc.components.samplers import tables
from latentc.components.samplers.program import sample_program
from latentc.components.samplers.tables import Grid, Table
from latentc.components.schedules import Path, Schedule
from latentc.ir.builder import ModuleBuilder

Spacing = Literal["even", "leading", "trailing", "linspace"]
Final = Literal["zero", "sigma_min"]


class Guidance(Closed):
    """Classifier-free guidance (Ho and Salimans 2022): null + scale * (conditional - null)."""

    scale: float = Field(
        1.0, ge=0, description="default of the scale, which a sampling call may set per sample; 1 guides nothing"
    )
    interval: tuple[float, float] = Field(
        (0.0, 1.0),
        description="where it is on, from noise (0) to data (1), ends included (Kynkäänniemi et al. 2024): a flow's "
        "time, or 1 - t / (T - 1) of a schedule of T levels; fixed when compiled",
    )
    channels: int | None = Field(
        None, gt=0, description="guide only so many first channels (3 in the DiT paper's code); null: the data's"
    )

    @model_validator(mode="after")
    def _ordered(self) -> Guidance:
        low, high = self.interval
        if not 0.0 <= low <= high <= 1.0:
            raise ValueError(f"an interval goes up within 0 and 1, not from {low:g} to {high:g}")
        return self

    def at(self, progress: float) -> bool:
        """Whether an evaluation so far from noise (0) to data (1) is guided."""
        return self.interval[0] <= progress <= self.interval[1]


class Sampler(Component):
    """A sampler of arrays: its table, and from that its program."""

    FAMILIES: ClassVar[tuple[Family, ...]] = ("diffusion", "flow")
    # fields that mean something for one family alone
    OF_FAMILY: ClassVar[dict[str, Family]] = {}

    steps: int = Field(50, gt=0, le=100_000, description="how often the state is updated")
    guidance: Guidance | None = Field(None, description="classifier-free guidance; null: the network as it is")

    @abstractmethod
    def table(self, process: Process, steps: int | None = None) -> Table:
        """The coefficients of a run of `steps` (default: the spec's) on `process`.

        ValueError: steps, times or conversions that do not exist.
        """

    def objections(self, process: Process) -> list[tuple[tuple[str, ...], str]]:
        """Why this sampler cannot sample `process`: (path of a field, sentence) each; none if it can."""
        if process.family not in self.FAMILIES:
            return [(("kind",), f"{self.kind} does not sample a {process.family}: it needs {_either(self.FAMILIES)}")]
        found: list[tuple[tuple[str, ...], str]] = [
            ((name,), f"`{name}` has a meaning for a {family} only, and the objective is a {process.family}")
            for name, family in self.OF_FAMILY.items()
            if family != process.family and name in self.model_fields_set
        ]
        if not found:
            try:
                self.table(process)
            except ValueError as error:
                found.append((("steps",), str(error)))
        return found

    def program(
        self,
        module: ModuleBuilder,
        network: Network,
        process: Process,
        steps: int | None = None,
        entry: str = "sample",
    ) -> SampleProgram:
        """Builds the whole sampler over `network` as entry `entry`; see `program.sample_program`.

        ValueError: as `table`, or guidance of a network without a null class.
        """
        table = self.table(process, steps)
        guidance = self.guidance
        if guidance is None:
            return sample_program(module, network, table, entry=entry)
        return sample_program(
            module,
            network,
            table,
            guided=lambda t: guidance.at(float(process.progress(t))),
            scale=guidance.scale,
            channels=guidance.channels,
            entry=entry,
        )


def _either(families: tuple[Family, ...]) -> str:
    return " or ".join(f"a {family}" for family in families)


class Respaced(Sampler):
    """A sampler on whole timesteps of a schedule, chosen as improved DDPM and DiT do, or as diffusers
    does."""

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

    def timesteps_of(self, schedule: Schedule, steps: int | None) -> Grid:
        """The grid of the chosen timesteps, down to the data."""
        if self.respacing is not None and steps in (None, self.steps):
            return tables.discrete_grid(schedule, tables.respaced(schedule.steps, self.respacing))
        return spaced_grid(schedule, steps or self.steps, self.spacing, self.offset)


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
