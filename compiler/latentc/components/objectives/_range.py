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
        message = f"a `{process.kind}` process has no whole timesteps, of which `range` is a part"
        yield Problem(("range",), message, "leave it out")
        return
    first, last = timesteps(process, range)
    if first >= last:
        message = f"no timestep lies in the range from {range[0]:g} to {range[1]:g}"
        yield Problem(("range",), message, "from the data (0) to the noise (1): [0.2, 0.4]")


__all__ = ["problems_of_range", "timesteps"]
