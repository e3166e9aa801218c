"""Programs that change a part of a given clip, and keep the rest: around any model that denoises audio.

A program draws samples whose error where the clip is kept guides every step (`reconstruction`). What is kept follows
from two times in seconds, which a request may set. Symbols: B batch, C channels, L length in samples.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from latentc.components.contract import Network, Program
from latentc.components.coupling import Coupling
from latentc.components.fields import Field as DataField
from latentc.components.guidance.guidance import Array, Guide, interval_problems, within
from latentc.components.kit import Conditions
from latentc.components.parts import Fraction, Problem, Spec
from latentc.components.processes.process import Parameterization, Process
from latentc.components.sampler import Wrapper
from latentc.components.samplers.base import parameterization_of
from latentc.components.samplers.guided import Around, Request
from latentc.components.samplers.program import sample_program
from latentc.components.sums import weighted_sum
from latentc.ir.builder import Builder, ModuleBuilder, Var
from latentc.ir.types import B, f32
from latentc.systems.music.reconstruction import Reconstruction
from latentc_runtime.sources import Condition, ConditionSource, Setting, SettingSource, Source

if TYPE_CHECKING:
    from latentc.components.samplers.base import ArraySampler

Task = Literal["continuation", "infill", "regeneration", "transition"]
TASKS: tuple[Task, ...] = ("continuation", "infill", "regeneration", "transition")
REGION = {"start": 1 / 3, "stop": 2 / 3}
"""The part of the clip that is drawn by default: its middle third, as the paper draws the middle 2 s of 6 s."""

NOISED: tuple[Task, ...] = ("regeneration", "transition")
"""The tasks that begin with a noised clip."""

KNOWN, KEEP, SCALE = "known", "keep", "reconstruction"


class AudioEdit(Wrapper):
    """Continues a clip, fills a gap, plays a part anew or joins two clips (Levy et al. 2023, arXiv:2311.00613).

    Every program takes a clip `audio` [C, L] and the times `start` and `stop` in seconds between which it is drawn
    (`continuation`: from `start` to the end). `continuation` and `infill` begin with noise, whatever the clip has
    there; `regeneration` with the clip, noised as far as `strength`; `transition` takes a second clip `next`, and
    begins with a cross-fade of the two, noised likewise. The scale of guidance is the setting `reconstruction`.
    """

    kind: Literal["audio_edit"]
    tasks: tuple[Task, ...] = Field(TASKS, min_length=1, description="the programs")
    scale: float = Field(
        1.0, ge=0, description="default scale of the guidance towards what is kept, relative to the predicted noise"
    )
    normalised: bool = Field(
        True, description="scale its gradient by its norm, per sample; see the score `reconstruction`"
    )
    interval: tuple[Fraction, Fraction] = Field(
        (0.01, 1.0),
        description="progress range from noise (0) to data (1) in which it acts: from noise alone, steps go too far",
    )
    strength: Fraction = Field(
        0.7,
        description="share of the way from data to noise at which `regeneration` and `transition` begin; 1: with noise",
    )
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "audio_edit", "tasks": ["infill", "transition"], "strength": 0.5}

    def mismatches(self, spec: Spec, sampler: ArraySampler) -> Iterator[Problem]:
        target = parameterization_of(spec.objective)
        assert target is not None  # otherwise the sampler has a problem
        if sound_of(spec) is None:
            message = f"program `{self.kind}` edits sounds [channel, time], but the data has {spec.data.words}"
            mend = "give the field `medium: audio` and its `rate`; of latents, name an autoencoder of sounds as "
            yield Problem((), message, f"{mend}`first_stage`")
        if len(set(self.tasks)) < len(self.tasks):
            yield Problem(("tasks",), "a task is named twice", "name each once")
        taken = [name for name in (KNOWN, KEEP, "audio", "next") if name in spec.conditions]
        if taken:
            message = f"`{taken[0]}` is a condition of the spec, and an input of program `{self.kind}`"
            yield Problem((), message, "give the condition another name")
        if target.coupling is not None:
            message = "a coupled flow starts from a condition, so its samples cannot start from a clip"
            yield Problem((), message, "leave the program out")
            return
        yield from interval_problems(self.interval)
        if not sampler.table(target).guided(self.weights):
            message = f"no step of `{sampler.kind}` is guided: its evaluations are all outside `interval`"
            yield Problem(("interval",), message, "use more steps, or a wider `interval`")
        try:
            self._later(sampler, target)
        except ValueError as error:
            yield Problem(("strength",), f"`{sampler.kind}` cannot begin there: {error}", "set it to 1")

    def weights(self, progress: Sequence[float]) -> Array:
        """1 at each progress at which what is kept guides, else 0."""
        return np.array([float(within(float(p), self.interval)) for p in progress])

    def programs(
        self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec, sampler: ArraySampler
    ) -> tuple[Program, ...]:
        target = parameterization_of(spec.objective)
        if target is None:
            return ()
        return tuple(self._program(task, mb, networks, spec, sampler, target) for task in self.tasks)

    def _later(self, sampler: ArraySampler, target: Parameterization) -> ArraySampler:
        """The sampler from the evaluation nearest to `strength` on. ValueError: it cannot begin later than at noise."""
        times = sampler.grid(target).times[:-1]
        first = int(np.argmin(np.abs(target.process.progress(times) - (1.0 - self.strength))))
        later = sampler.with_timesteps(times[first:])
        later.table(target)
        return later

    def _program(
        self,
        task: Task,
        mb: ModuleBuilder,
        networks: Mapping[str, Network],
        spec: Spec,
        sampler: ArraySampler,
        target: Parameterization,
    ) -> Program:
        """Entry `TASK.STEPS`: as `sample`, with clips f32[B, C, L] and times f32[B]."""
        network, process, start = networks["main"], target.process, None
        shape = network.methods["forward"].input("state").type.shape[1:]
        kernel = process.kernel([int(size) for size in shape])  # type: ignore[arg-type]
        table = sampler.table(target)
        if task in NOISED and self.strength < 1.0:
            later = self._later(sampler, target)
            assert later.timesteps is not None
            start, kernel = noised(process, later.timesteps[0]), None
            table = replace(later.table(target), prior=1.0)
        score = Reconstruction(kind="reconstruction", known=KNOWN, keep=KEEP, normalised=self.normalised)
        towards = Guide(SCALE, SCALE, self.scale, self.weights, score.slope(mb, network, networks))
        sound = sound_of(spec)
        assert sound is not None  # `mismatches` has looked
        edit = Edit(task, sound, spec.data.fields["x"])
        program = sample_program(
            mb,
            network,
            sampler.conditions(spec, networks),
            table,
            guides=[*sampler.guides(mb, networks, process), towards],
            around=[*sampler.around(mb, networks, spec), edit],
            coupling=start,
            entry=f"{task}.{sampler.steps}",
            kernel=kernel,
        )
        return replace(
            program,
            name=task,
            steps=sampler.steps,
            sources={**program.sources, **edit.sources},
            settings=(*program.settings, *edit.settings),
            conditions=edit.clips,
            encoded=edit.inputs,
        )


def sound_of(spec: Spec) -> DataField | None:
    """The field of the sounds [C, L] that a spec models, or of those whose latents [Z, L / f] it models; or None."""
    field = spec.data.fields.get("x")
    if field is not None and field.medium != "audio" and spec.first_stage_fits and spec.first_stage is not None:
        field = spec.first_stage.data.fields.get("x") if len(field.shape) == 2 else None
    return field if field is not None and field.axes == ("channel", "time") and field.medium == "audio" else None


@dataclass(frozen=True)
class Edit(Around):
    """Adds the clips and times of a task to a request: operands `known` f32[B, C, L] and `keep` f32[B, 1, L].

    `field` is what the network models: the `sound` itself, or latents of it.
    """

    task: Task
    sound: DataField
    field: DataField

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of the clips."""
        return ("audio", "next") if self.task == "transition" else ("audio",)

    @property
    def clips(self) -> tuple[Condition, ...]:
        """The clips as a request gives them."""
        return tuple(Condition(name, "array", self.field.shape, "f32", self.field.axes) for name in self.inputs)

    @property
    def seconds(self) -> float:
        """The length of a clip."""
        return self.sound.size("time") / (self.sound.rate or 1.0)

    @property
    def settings(self) -> tuple[Setting, ...]:
        """The times, in seconds."""
        times = {name: share for name, share in REGION.items() if (self.task, name) != ("continuation", "stop")}
        above = {"stop": "start"}
        return tuple(
            Setting(name, share * self.seconds, 0.0, self.seconds, above=above.get(name))
            for name, share in times.items()
        )

    @property
    def sources(self) -> dict[str, Source]:
        """The sources of the inputs that `request` adds."""
        clips: dict[str, Source] = {name: ConditionSource(name) for name in self.inputs}
        return clips | {setting.name: SettingSource(setting.name) for setting in self.settings}

    def request(self, b: Builder, conditions: Conditions, request: Request) -> Request:
        shape, rate = self.field.shape, self.field.shape[1] / self.seconds
        clips = [b.input(name, f32(B, *shape)) for name in self.inputs]
        ends = [b.input(setting.name, f32(B)) for setting in self.settings]
        # Of the middles of samples, so that rounding cannot move a time that falls between two of them.
        position = b.constant(np.arange(shape[1])[None, None] + 0.5, "f32", out="position")
        start, *stop = [b.reshape(b.mul(end, rate), shape=(B, 1, 1), out="end") for end in ends]
        keep = b.cast(b.less(position, start), to="f32", out="keep")
        for end in stop:
            keep = b.maximum(keep, b.cast(b.less(end, position), to="f32"), out="keep")
        known = clips[0]
        if self.task == "transition":
            length = b.maximum(b.op("sub", stop[0], start), 1.0, out="length")
            share = b.clamp(b.div(b.op("sub", position, start), length), low=0.0, high=1.0, out="share")
            angle = b.mul(share, math.pi / 2, out="angle")
            known = b.add(b.mul(clips[0], b.cos(angle)), b.mul(clips[1], b.sin(angle)), out="known")
        return replace(request, operands={**request.operands, KNOWN: known, KEEP: keep})


class Noised(Coupling):
    """A start alpha x + sigma noise from the clip x, as the process has it at a time between data and noise."""

    alpha: float
    sigma: float

    def base(self, b: Builder, noise: Var, operands: Mapping[str, Var]) -> Var:
        return weighted_sum(b, "noised", (self.alpha, operands[self.condition]), (self.sigma, noise))


def noised(process: Process, time: float) -> Noised:
    """The start at a time of the process."""
    point = process.point(np.array([time]))
    return Noised(kind="noised", condition=KNOWN, alpha=float(point.alpha[0]), sigma=float(point.sigma[0]))
