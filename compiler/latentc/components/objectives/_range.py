"""A part of a discrete process's timesteps, which a classifier of noisy images learns."""

from __future__ import annotations

from collections.abc import Iterator

from latentc.components.parts import Problem
from latentc.components.processes.process import Process


def timesteps(process: Process, range: tuple[float, float] | None) -> tuple[int, int]:
    """The first timestep of a range from data (0) to noise (1), and the one behind the last; None: of all."""
    count = round(process.first - process.last) + 1
    low, high = range or (0.0, 1.0)
    return int(low * count), int(high * count)


def problems_of_range(process: Process, range: tuple[float, float] | None) -> Iterator[Problem]:
    """A range of times that are not counted, or without a timestep."""
    if range is None:
        return
    if not process.WHOLE:
        message = f"`range` needs a process with integer timesteps, but `{process.kind}` has none"
        yield Problem(("range",), message, "leave it out")
        return
    first, last = timesteps(process, range)
    if first >= last:
        message = f"no timestep lies between {range[0]:g} and {range[1]:g}"
        yield Problem(("range",), message, "give a wider range, from 0 (data) to 1 (noise), such as [0.2, 0.4]")


__all__ = ["problems_of_range", "timesteps"]
