"""Orders of convergence on a process whose exact solution is known: data that is normal with deviation s.

There x_t / sqrt(alpha^2 s^2 + sigma^2) is constant along the probability flow, and the optimal network is linear.
"""

import numpy as np
import pytest
from processes import flow_grid, path

from latentc import components
from latentc.components.processes.process import Parameterization
from latentc.components.processes.sde import Ve
from latentc.components.samplers import ode
from latentc.components.samplers.ddim import ddim
from latentc.components.samplers.deis import deis
from latentc.components.samplers.dpm_solver_pp import dpm_solver_pp
from latentc.components.samplers.euler_maruyama import stochastic
from latentc.components.samplers.table import run
from latentc.components.samplers.unipc import unipc

DEVIATION = 0.6
START, STOP = 0.05, 0.9
PATH = path("gvp")
X = np.array([[[[1.3]]]])


def spread(t):
    at = PATH.point(t)
    return np.sqrt(at.alpha**2 * DEVIATION**2 + at.sigma**2)


def noise(x, t):
    """The expected noise of a state."""
    return PATH.point(t).sigma * x / spread(t) ** 2


def error(make, steps):
    exact = X * spread(STOP) / spread(START)
    grid = flow_grid(PATH, steps, START, STOP)
    return float(np.max(np.abs(run(make(grid, "noise"), noise, X) - exact)))


SOLVERS = {
    "euler": (lambda g, p: ode.euler(g, p, ode.TIME), 1),
    "ddim": (ddim, 1),
    "heun": (lambda g, p: ode.heun(g, p, ode.TIME), 2),
    "euler level": (ode.euler, 1),
    "heun level": (ode.heun, 2),
    "heun variance": (lambda g, p: ode.heun(g, p, ode.Variable("variance")), 2),
    "heun vp": (lambda g, p: ode.heun(g, p, ode.Variable("vp_time", "vp")), 2),
    "dpm_solver_pp 2": (lambda g, p: dpm_solver_pp(g, p, 2, lower_order_final=False), 2),
    "dpm_solver_pp 2 heun": (lambda g, p: dpm_solver_pp(g, p, 2, "heun", lower_order_final=False), 2),
    "unipc 1": (lambda g, p: unipc(g, p, 1, lower_order_final=False), 1),
    "unipc 2": (lambda g, p: unipc(g, p, 2, lower_order_final=False), 2),
    "unipc 2 noise": (lambda g, p: unipc(g, p, 2, predict_x0=False, lower_order_final=False), 2),
}


@pytest.mark.parametrize("name", SOLVERS)
def test_order_of_convergence(name):
    make, order = SOLVERS[name]
    coarse, fine = error(make, 80), error(make, 160)
    assert fine < 1e-2
    # halving the step divides the error by 2^order, or by more: a corrector, and lucky cancellation, add to it
    assert np.log2(coarse / fine) > order - 0.1


@pytest.mark.parametrize("make", [deis, lambda *a: deis(*a, variable="rho")])
@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_deis_converges_at_its_order(make, order):
    coarse, fine = (error(lambda g, p: make(g, p, order), steps) for steps in (80, 160))
    assert np.log2(coarse / fine) > min(order, 2) - 0.15, "of second order at least: the first steps are lower"
    if order > 1:
        assert fine < error(lambda g, p: make(g, p, order - 1), 160)


@pytest.mark.parametrize("make", [dpm_solver_pp, unipc])
def test_third_order_is_better_than_second(make):
    second, third = (error(lambda g, p, o=o: make(g, p, o, lower_order_final=False), 80) for o in (2, 3))
    assert third < second / 3


@pytest.mark.parametrize("heun", [False, True])
def test_stochastic_samplers_keep_the_marginal(heun):
    """Any diffusion form leaves the same distribution: the deviation of many samples is the path's."""
    x = np.random.default_rng(0).standard_normal((20_000, 1, 1, 1))
    z = np.random.default_rng(1).standard_normal((100, *x.shape))
    for form in ("constant", "sigma", "decreasing", "increasing_decreasing"):
        grid = flow_grid(PATH, 100, 0.01, STOP)
        table = stochastic(grid, "noise", form, last="none", heun=heun)
        assert np.std(run(table, noise, x, z)) == pytest.approx(spread(STOP), rel=0.03)


@pytest.mark.parametrize("kind", ["euler_maruyama", "heun_sde"])
def test_stochastic_samplers_of_the_variance_exploding_sde_end_at_its_least_noise(kind):
    """It never reaches the data, so there is no time of the data to step to."""
    process = Ve(kind="ve", sigma_min=0.05, sigma_max=20.0, time_input="sigma")
    sampler = components.load("samplers")[kind](kind=kind, steps=300, diffusion="sbdm", last_size=0.003)
    x = np.random.default_rng(0).standard_normal((10_000, 1, 1, 1))
    z = np.random.default_rng(1).standard_normal((300, *x.shape))

    def expected_noise(x, sigma):
        return sigma * x / (DEVIATION**2 + sigma**2)

    samples = run(sampler.table(Parameterization(process, "noise")), expected_noise, x, z)
    assert np.std(samples) == pytest.approx(np.hypot(DEVIATION, process.sigma_min), rel=0.03)
