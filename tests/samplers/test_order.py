"""Orders of convergence on a process whose exact solution is known: data that is normal with deviation s.

There x_t / sqrt(alpha^2 s^2 + sigma^2) is constant along the probability flow, and the optimal network is linear.
"""

import numpy as np
import pytest

from latentc.components.samplers import tables
from latentc.components.samplers.tables.reference import run
from latentc.components.schedules import path

DEVIATION = 0.6
START, STOP = 0.05, 0.9
PATH = path("gvp")
X = np.array([[[[1.3]]]])


def spread(t):
    return np.sqrt(PATH.alpha(t) ** 2 * DEVIATION**2 + PATH.sigma(t) ** 2)


def noise(x, t):
    """The expected noise of a state."""
    return PATH.sigma(t) * x / spread(t) ** 2


def error(make, steps):
    exact = X * spread(STOP) / spread(START)
    grid = tables.flow_grid(PATH, steps, START, STOP)
    return float(np.max(np.abs(run(make(grid, "noise"), noise, X) - exact)))


SOLVERS = {
    "euler": (tables.euler, 1),
    "ddim": (tables.ddim, 1),
    "heun": (tables.heun, 2),
    "dpm_solver_pp 2": (lambda g, p: tables.dpm_solver_pp(g, p, 2, lower_order_final=False), 2),
    "dpm_solver_pp 2 heun": (lambda g, p: tables.dpm_solver_pp(g, p, 2, "heun", lower_order_final=False), 2),
    "unipc 1": (lambda g, p: tables.unipc(g, p, 1, lower_order_final=False), 1),
    "unipc 2": (lambda g, p: tables.unipc(g, p, 2, lower_order_final=False), 2),
    "unipc 2 noise": (lambda g, p: tables.unipc(g, p, 2, predict_x0=False, lower_order_final=False), 2),
}


@pytest.mark.parametrize("name", SOLVERS)
def test_order_of_convergence(name):
    make, order = SOLVERS[name]
    coarse, fine = error(make, 80), error(make, 160)
    assert fine < 1e-2
    # halving the step divides the error by 2^order, or by more: a corrector, and lucky cancellation, add to it
    assert np.log2(coarse / fine) > order - 0.1


@pytest.mark.parametrize("make", [tables.deis, lambda *a: tables.deis(*a, variable="rho")])
@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_deis_converges_at_its_order(make, order):
    coarse, fine = (error(lambda g, p: make(g, p, order), steps) for steps in (80, 160))
    assert np.log2(coarse / fine) > min(order, 2) - 0.15, "of second order at least: the first steps are lower"
    if order > 1:
        assert fine < error(lambda g, p: make(g, p, order - 1), 160)


@pytest.mark.parametrize("make", [tables.dpm_solver_pp, tables.unipc])
def test_third_order_is_better_than_second(make):
    second, third = (error(lambda g, p, o=o: make(g, p, o, lower_order_final=False), 80) for o in (2, 3))
    assert third < second / 3


@pytest.mark.parametrize("heun", [False, True])
def test_stochastic_samplers_keep_the_marginal(heun):
    """Any diffusion form leaves the same distribution: the deviation of many samples is the path's."""
    x = np.random.default_rng(0).standard_normal((20_000, 1, 1, 1))
    z = np.random.default_rng(1).standard_normal((100, *x.shape))
    for form in ("constant", "sigma", "decreasing", "increasing_decreasing"):
        grid = tables.flow_grid(PATH, 100, 0.01, STOP)
        table = tables.euler_maruyama(grid, PATH, "noise", form, last="none", heun=heun)
        assert np.std(run(table, noise, x, z)) == pytest.approx(spread(STOP), rel=0.03)
