"""Processes and grids that the tests of samplers start from."""

import numpy as np

from latentc.components import load
from latentc.components.processes.discrete import Discrete
from latentc.components.processes.interpolant import Interpolant
from latentc.components.samplers.grid import Grid
from latentc.components.samplers.spacings.spacing import Interval


def schedule(kind="linear", steps=1000, beta_start=None, beta_end=None):
    return Discrete(kind="discrete", schedule=kind, steps=steps, beta_start=beta_start, beta_end=beta_end)


def path(kind):
    return Interpolant(kind="interpolant", path=kind)


def spaced(total, steps, spacing="leading", offset=0, destination=False):
    """Timesteps of a schedule."""
    fields = {"kind": spacing, **({"offset": offset} if offset else {})}
    return load("samplers/spacings")[spacing](**fields).timesteps(total, steps, destination)


def discrete_grid(process, timesteps, final="zero"):
    return Grid(process, np.append(np.asarray(timesteps, np.float64), -1.0 if final == "zero" else 0.0))


def karras_grid(process, steps, final="zero"):
    interval = Interval(process.first, process.last, process.data if final == "zero" else None)
    return load("samplers/spacings")["karras"](kind="karras").grid(process, steps, interval)


def flow_grid(process, steps, start=0.0, stop=1.0):
    return Grid(process, np.linspace(start, stop, steps + 1))
