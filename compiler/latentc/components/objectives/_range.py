"""A part of a discrete process's timesteps, in which networks of noisy images learn.

Symbols: B batch; x0 the data, x_t the data noised to time t.
"""

from __future__ import annotations

from collections.abc import Iterator

from latentc.components.parts import Problem
from latentc.components.processes.formulas import Symbolic
from latentc.components.processes.process import Process, time_column
from latentc.components.sums import weighted_sum
from latentc.ir.builder import Builder, Var, i64
from latentc.ir.types import B


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


def noised_data(b: Builder, process: Process, range: tuple[float, float], x0: Var) -> tuple[Var, Var, int]:
    """(x_t of x0 [B, ...] at a drawn timestep, the time f32[B] that networks are told, the number of timesteps).

    Adds the inputs `step` i64[B], below that number, and `noise` of x0's type.
    """
    first, last = timesteps(process, range)
    drawn, noise = b.input("step", i64(B)), b.input("noise", x0.type)
    m = Symbolic(b, x0.type.rank)
    t = b.add(drawn, first, out="t") if first else drawn
    at = time_column(process, m, t)
    x_t = weighted_sum(b, "x_t", (process.alpha(m, at), x0), (process.sigma(m, at), noise))
    return x_t, process.network_time(m, t), last - first


__all__ = ["noised_data", "problems_of_range", "timesteps"]
