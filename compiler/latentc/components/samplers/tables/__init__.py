"""Samplers as tables: per-step coefficients, computed once on the host in float64.

Read core.py (what a table is), grids.py (where a sampler evaluates), then a family: diffusion.py (DDPM,
DDIM), ode.py (Euler, Heun), sde.py (Euler-Maruyama, stochastic Heun), multistep.py (DPM-Solver++, UniPC), adams.py
(DEIS, iPNDM).
reference.py says in numpy what a table means.
"""

from latentc.components.samplers.tables.adams import deis, ipndm
from latentc.components.samplers.tables.core import Table
from latentc.components.samplers.tables.diffusion import ddim, ddpm
from latentc.components.samplers.tables.grids import (
    Grid,
    discrete_grid,
    flow_grid,
    karras_grid,
    path_grid,
    respaced,
    spaced,
)
from latentc.components.samplers.tables.multistep import dpm_solver_pp, unipc
from latentc.components.samplers.tables.ode import euler, heun
from latentc.components.samplers.tables.sde import diffusion_coefficient, euler_maruyama

__all__ = [
    "Grid",
    "Table",
    "ddim",
    "ddpm",
    "deis",
    "diffusion_coefficient",
    "discrete_grid",
    "dpm_solver_pp",
    "euler",
    "euler_maruyama",
    "flow_grid",
    "heun",
    "ipndm",
    "karras_grid",
    "path_grid",
    "respaced",
    "spaced",
    "unipc",
]
