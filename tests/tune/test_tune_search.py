"""The search for timesteps, on denoisers whose exact score is known: optima found by trying everything, and a control.

The data is a mixture of Gaussians of one deviation; its expected data given a noisy state has a closed form.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from latentc.components.processes.discrete import Discrete
from latentc.components.processes.edm import Edm
from latentc.components.processes.interpolant import Interpolant
from latentc.components.processes.process import Parameterization
from latentc.components.samplers.ddim import Ddim
from latentc.components.samplers.dpm_solver_pp import DpmSolverPp
from latentc.components.samplers.table import run
from latentc.components.samplers.unipc import Unipc
from latentc.measure.metrics import mean_distance
from latentc.tune.alternatives import reference
from latentc.tune.screen import FINE
from latentc.tune.search import cheapest_path, refined, searched, step_costs, stretched, trajectory

CENTRES = np.array([[-1.0, -0.5], [0.2, 1.1], [0.9, -0.7]])
DEVIATION = 0.15
DIFFUSION = Parameterization(Discrete(kind="discrete", schedule="cosine"), "x0")
FLOW = Parameterization(Interpolant(kind="interpolant"), "x0")
EDM = Parameterization(Edm(kind="edm"), "x0")


def mixture(alpha, sigma, x):
    """E[x0 | x] for x = alpha x0 + sigma noise, x [B, 2, 1, 1]."""
    flat = x.reshape(len(x), 2)
    spread = alpha**2 * DEVIATION**2 + sigma**2
    apart = flat[:, None] - alpha * CENTRES
    weights = -np.sum(apart**2, axis=2) / (2 * spread)
    weights = np.exp(weights - weights.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    means = CENTRES + alpha * DEVIATION**2 / spread * apart
    return np.sum(weights[:, :, None] * means, axis=1).reshape(x.shape)


def diffusion_network(x, t):
    at = DIFFUSION.process.point(t)
    return mixture(at.alpha, at.sigma, x)


def flow_network(x, t):
    return mixture(t, 1 - t, x)


def edm_network(x, t):
    """EDM's network sees c_in x and is told log(sigma) / 4."""
    sigma = np.exp(4 * t)
    return mixture(1.0, sigma, x * np.sqrt(sigma**2 + 0.5**2))


NETWORKS = {"diffusion": (DIFFUSION, diffusion_network), "flow": (FLOW, flow_network), "edm": (EDM, edm_network)}


def noise(seed, count=64):
    return np.random.default_rng(seed).standard_normal((count, 2, 1, 1))


def solved(family, x):
    process, network = NETWORKS[family]
    sampler = reference(Ddim(kind="ddim"), process, FINE)
    return trajectory(sampler.table(process), sampler.grid(process), process.predicts, network, x)


def errors_of(family, sampler, x, exact):
    process, network = NETWORKS[family]
    return lambda times: mean_distance(run(sampler.with_timesteps(times).table(process), network, x), exact)


def found(family, sampler, x, exact, fine):
    process, _ = NETWORKS[family]
    *usual, end = (float(t) for t in sampler.grid(process).times)
    bends = [float(fine.t[i]) for i in cheapest_path(step_costs(fine), sampler.steps)]
    starts = [usual, [usual[0], *bends[1:]]]
    return searched(starts, errors_of(family, sampler, x, exact), end, process.process.WHOLE)[0]


def test_the_fine_solution_of_one_gaussian_is_exact():
    """x / sqrt(alpha² s² + sigma²) stays the same along the way."""
    process = DIFFUSION

    def network(x, t):
        at = process.process.point(t)
        return x * float(at.alpha * 0.6**2 / (at.alpha**2 * 0.6**2 + at.sigma**2))

    sampler = reference(Ddim(kind="ddim"), process, FINE)
    x = noise(0)
    first = process.process.point(999.0)
    exact = x * 0.6 / np.sqrt(first.alpha**2 * 0.6**2 + first.sigma**2)
    fine = trajectory(sampler.table(process), sampler.grid(process), "x0", network, x)
    assert mean_distance(fine.samples, exact) < 1e-3
    coarse = reference(Ddim(kind="ddim"), process, 10)
    assert mean_distance(run(coarse.table(process), network, x), exact) > 5 * mean_distance(fine.samples, exact)
    # a step of first order from one point of the fine solution to the next ends almost there, a long one does not
    costs = step_costs(fine)
    assert np.all(np.isinf(costs[np.tril_indices(100, 0, 101)]))
    assert np.diag(costs, 1).max() < 1e-3 * costs[0, 100]


@pytest.mark.parametrize("steps", [1, 2, 3, 5])
def test_the_cheapest_path_is_that_of_trying_all(steps):
    costs = np.full((7, 8), np.inf)
    costs[np.triu_indices(7, 1, 8)] = np.random.default_rng(steps).uniform(size=28)

    def cost(points):
        return sum(costs[i, j] for i, j in itertools.pairwise([*points, 7]))

    best = min(((0, *rest) for rest in itertools.combinations(range(1, 7), steps - 1)), key=cost)
    assert cheapest_path(costs, steps) == list(best)
    with pytest.raises(ValueError, match="between 1 and 7"):
        cheapest_path(costs, 8)


@pytest.mark.parametrize("kind", [Ddim, DpmSolverPp, Unipc])
def test_one_free_timestep_is_the_best_of_all(kind):
    """Two steps leave one timestep to choose: every one of them is tried."""
    x = noise(1)
    fine = solved("diffusion", x)
    sampler = kind(kind=kind.model_fields["kind"].annotation.__args__[0], steps=2)
    objective = errors_of("diffusion", sampler, x, fine.samples)
    best = min(objective([999.0, float(t)]) for t in range(0, 999, 3))
    times = found("diffusion", sampler, x, fine.samples, fine)
    assert objective(times) <= 1.03 * best
    assert objective([float(t) for t in sampler.grid(DIFFUSION).times[:-1]]) > 1.1 * best


@pytest.mark.parametrize("family", NETWORKS)
@pytest.mark.parametrize("steps", [4, 6])
def test_searched_timesteps_are_better_on_noise_that_the_search_never_saw(family, steps):
    x, other = noise(2), noise(3, 512)
    fine, exact = solved(family, x), solved(family, other).samples
    sampler = DpmSolverPp(kind="dpm_solver_pp", steps=steps)
    usual = [float(t) for t in sampler.grid(NETWORKS[family][0]).times[:-1]]
    judge = errors_of(family, sampler, other, exact)
    assert judge(found(family, sampler, x, fine.samples, fine)) < 0.8 * judge(usual)
    # control: against the solutions of other noise there is nothing to learn
    wrong = solved(family, noise(4)).samples
    assert judge(found(family, sampler, x, wrong, fine)) > 0.9 * judge(usual)


def test_refining_keeps_order_ends_and_whole_numbers():
    tried = []

    def objective(times):
        tried.append(list(times))
        return abs(times[1] - 3) + abs(times[2] - 2.4)

    times, least = refined([10.0, 8.0, 6.0], objective, -1.0, whole=True, sweeps=20)
    assert times == [10.0, 3.0, 2.0] and least == pytest.approx(0.4)
    for t in tried:
        assert t[0] == 10.0 and t[0] > t[1] > t[2] > -1 and all(v == int(v) for v in t)
    rising, _ = refined([0.0, 0.2, 0.4], lambda t: abs(t[1] - 0.5) + abs(t[2] - 0.98), 1.0, whole=False, sweeps=20)
    assert rising == pytest.approx([0.0, 0.5, 0.98], abs=0.03)


def test_refining_stops_where_it_is_told():
    calls = []
    times, _ = refined(
        [10.0, 5.0], lambda t: len(calls), 0.0, whole=True, stop=lambda: calls.append(1) or len(calls) > 2
    )
    assert len(calls) == 3 and times == [10.0, 5.0]


def test_stretching_keeps_the_spread():
    assert stretched([8.0, 4.0, 2.0], 6, 0.0) == pytest.approx([8, 6, 4, 3, 2, 1])
    assert stretched([8.0, 4.0, 2.0], 3, 0.0) == [8.0, 4.0, 2.0]


def test_error_is_a_mean_of_distances():
    exact = np.ones((4, 2))
    assert mean_distance(exact * 1.1, exact) == pytest.approx(0.1)
    outlier = exact.copy()
    outlier[0] += 4
    assert mean_distance(outlier, exact) == pytest.approx(1.0)
    assert mean_distance(exact * np.nan, exact) == math.inf
