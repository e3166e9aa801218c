"""Spacings of a discrete schedule's whole timesteps, as improved DDPM and diffusers choose them."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from latentc.components.formula_source import NoSourceError
from latentc.components.processes.discrete import Discrete
from latentc.components.processes.formulas import Array
from latentc.components.processes.process import Process
from latentc.components.samplers.grid import Grid
from latentc.components.samplers.script import Script
from latentc.components.samplers.spacings.spacing import Interval, Spacing

Timesteps = NDArray[np.int64]


class OfTimesteps(Spacing):
    """A choice of whole timesteps (Lin et al. 2023, table 2)."""

    @abstractmethod
    def chosen(self, total: int, steps: int, beyond: bool) -> Timesteps:
        """Descending timesteps of 0 to total - 1, `steps` of them or more."""

    def timesteps(self, total: int, steps: int, beyond: bool = False) -> Timesteps:
        """i64[steps], descending. ValueError: more steps than the schedule has, a repeated timestep, or one outside."""
        if not 1 <= steps <= total:
            raise ValueError(f"{steps} steps are out of range for a schedule of {total}: use 1 to {total}")
        chosen = self.chosen(total, steps, beyond)[:steps]
        if chosen[0] >= total:
            raise ValueError(
                f"timestep {chosen[0]} is beyond the end of the schedule of {total}: choose a smaller offset"
            )
        if len(set(chosen.tolist())) < steps:
            raise ValueError(
                f"with {self.kind} spacing {steps} steps of a schedule of {total} repeat a timestep: use fewer"
            )
        return chosen

    def grid(self, process: Process, steps: int, interval: Interval) -> Grid:
        if not isinstance(process, Discrete):
            raise ValueError(
                f"spacing `{self.kind}` chooses timesteps of a discrete schedule; use `even` "
                "or `karras` for this process"
            )
        times = self.timesteps(process.steps, steps, interval.beyond).astype(np.float64)
        return Grid(process, np.append(times, process.last if interval.closing is None else interval.closing))

    def chosen_text(self, script: Script, beyond: bool) -> str:
        """`chosen` as an expression. NoSourceError: there is none."""
        raise NoSourceError(f"spacing `{self.kind}` has no formulas")

    def write(self, script: Script, steps: int, interval: Interval) -> None:
        script.whole = True
        script.alpha_sigma()
        closing = script.process.last if interval.closing is None else interval.closing
        chosen, checked = self.chosen_text(script, interval.beyond), script.function(checked_timesteps)
        script.line(f"t = np.append({checked}({chosen}[:steps], TIMESTEPS, steps), {closing!r})")


def checked_timesteps(chosen: Array, timesteps: int, steps: int) -> Array:
    """The timesteps. ValueError: more steps than the schedule has, a repeated timestep, or one outside."""
    if not 1 <= steps <= timesteps or len(set(chosen.tolist())) < steps or chosen[0] >= timesteps:
        raise ValueError(f"there are no {steps} different timesteps of {timesteps} with this spacing")
    return chosen


class Leading(OfTimesteps):
    """Multiples of T // steps, plus an offset.

    Latent diffusion's code takes every multiple below T, so that 30 steps of 1000 are 31, 33 timesteps apart.
    """

    kind: Literal["leading"]
    offset: int = Field(0, ge=0, le=100_000, description="offset of every timestep")
    stride: int | None = Field(None, gt=0, le=100_000, description="multiples of this instead; null: T // steps")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "leading"}

    def chosen(self, total: int, steps: int, beyond: bool) -> Timesteps:
        points = steps + beyond
        return np.arange(points, dtype=np.int64)[::-1] * (self.stride or total // points) + self.offset

    def chosen_text(self, script: Script, beyond: bool) -> str:
        points = "(steps + 1)" if beyond else "steps"
        stride = f"(TIMESTEPS // {points})" if self.stride is None else script.argument("stride", self.stride)
        text = f"np.arange({points.strip('()')})[::-1] * {stride}"
        return f"({text} + {script.argument('offset', self.offset)})" if self.offset else f"({text})"


class Trailing(OfTimesteps):
    """From T - 1 down in steps of T / steps: the first step starts from pure noise."""

    kind: Literal["trailing"]
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "trailing"}

    def chosen(self, total: int, steps: int, beyond: bool) -> Timesteps:
        return np.arange(total, 0, -total / steps).round().astype(np.int64)[:steps] - 1

    def chosen_text(self, script: Script, beyond: bool) -> str:
        return "(np.arange(TIMESTEPS, 0, -TIMESTEPS / steps).round().astype(np.int64) - 1)"


class Descending(OfTimesteps):
    """From T - 1 down in steps of T / (N - 1), rounded up, with 0 as the last of N (UMD)."""

    kind: Literal["descending"]
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "descending"}

    def chosen(self, total: int, steps: int, beyond: bool) -> Timesteps:
        last = steps + beyond - 1
        if not last:
            return np.array([total - 1])
        return np.append(np.maximum(total - 1 - -(-total // last) * np.arange(last, dtype=np.int64), 0), 0)

    def chosen_text(self, script: Script, beyond: bool) -> str:
        last = "steps" if beyond else "(steps - 1)"
        rows = f"np.arange({last.strip('()')})"
        return f"np.append(np.maximum(TIMESTEPS - 1 - -(-TIMESTEPS // {last}) * {rows}, 0), 0)"


class Linspace(OfTimesteps):
    """Evenly spaced, including both ends."""

    kind: Literal["linspace"]
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "linspace"}

    def chosen(self, total: int, steps: int, beyond: bool) -> Timesteps:
        return np.linspace(0, total - 1, steps + beyond).round()[::-1].astype(np.int64)

    def chosen_text(self, script: Script, beyond: bool) -> str:
        return f"np.linspace(0, TIMESTEPS - 1, steps{' + 1' * beyond}).round()[::-1].astype(np.int64)"


def respaced(total: int, counts: str) -> Timesteps:
    """Timesteps, descending, by improved DDPM's respacing text (as DiT's `--num-sampling-steps`).

    `"10"`: ten, evenly from the first timestep to the last. `"10,20"`: as many from each of as many equal
    sections. `"ddim10"`: every (total // 10)-th timestep from 0, if that gives exactly ten.

    ValueError: text that is neither, or more steps than a section has.
    """
    if counts.startswith("ddim"):
        wanted = counted(counts.removeprefix("ddim"), counts)
        for every in range(1, total):
            if len(range(0, total, every)) == wanted:
                return np.arange(0, total, every, dtype=np.int64)[::-1]
        raise ValueError(f"no stride through {total} timesteps gives exactly {wanted} of them")
    sections = [counted(part, counts) for part in counts.split(",")]
    size, extra = divmod(total, len(sections))
    start = 0
    chosen: list[int] = []
    for index, count in enumerate(sections):
        length = size + (index < extra)
        if count > length and len(sections) > 1:
            raise ValueError(f"{count} steps do not fit in a section of {length} timesteps ({counts!r} of {total})")
        chosen += [start + place for place in evenly_spaced(length, count).tolist()]
        start += length
    return np.array(sorted(set(chosen), reverse=True), dtype=np.int64)


def evenly_spaced(timesteps: int, steps: int) -> Timesteps:
    """Timesteps, descending, evenly spaced over all (improved DDPM, DiT). ValueError: more steps than timesteps."""
    if not 1 <= steps <= timesteps:
        raise ValueError(f"{steps} steps are out of range for a schedule of {timesteps}: use 1 to {timesteps}")
    stride = 1.0 if steps <= 1 else (timesteps - 1) / (steps - 1)
    # Python's round (half to even) and the running sum reproduce improved DDPM exactly.
    chosen, position = [], 0.0
    for _ in range(steps):
        chosen.append(round(position))
        position += stride
    return np.array(sorted(set(chosen), reverse=True), dtype=np.int64)


def counted(text: str, whole: str) -> int:
    """The number of steps that a part of a respacing text names."""
    if not text.strip().isdecimal() or int(text) < 1:
        raise ValueError(f"respacing {whole!r}: give a count, counts separated by commas, or `ddim` and a count")
    return int(text)
