"""A part of a discrete process's timesteps, in which networks of noisy images learn.

Symbols: B batch; x0 the data, x_t the data noised to time t.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from latentc.components.contract import Draw
from latentc.components.objectives.denoising import Noised, noised
from latentc.components.parts import Problem
from latentc.components.processes.process import Parameterization, Process
from latentc.ir.builder import Builder, Var, i64
from latentc.ir.types import B


def _timesteps(process: Process, range: tuple[float, float]) -> tuple[int, int]:
    """The first timestep of a range from data (0) to noise (1), and the one after the last."""
    count = round(process.first - process.last) + 1
    low, high = range
    return int(low * count), int(high * count)


def problems_of_range(process: Process, range: tuple[float, float] | None) -> Iterator[Problem]:
    """A range of times that are not counted, or without a timestep."""
    if range is None:
        return
    if not process.WHOLE:
        message = f"`range` needs a process with integer timesteps, but `{process.kind}` has none"
        yield Problem(("range",), message, "leave it out")
        return
    first, last = _timesteps(process, range)
    if first >= last:
        message = f"no timestep lies between {range[0]:g} and {range[1]:g}"
        yield Problem(("range",), message, "give a wider range, from 0 (data) to 1 (noise), such as [0.2, 0.4]")


def noised_data(b: Builder, process: Process, range: tuple[float, float], x0: Var) -> Noised:
    """x0 [B, ...] at a drawn timestep of a range; adds the inputs `step` i64[B] and `noise`."""
    first, last = _timesteps(process, range)
    step, noise = b.input("step", i64(B)), b.input("noise", x0.type)
    t = b.add(step, first, out="t") if first else step
    at = noised(b, Parameterization(process, "noise"), x0, (t, noise))
    return replace(at, draws=(Draw("step", "integers", {"high": last - first}), *at.draws[1:]))
