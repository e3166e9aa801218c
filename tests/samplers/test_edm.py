"""EDM's two samplers, written out from the paper, and its losses, on networks of all four preconditionings."""

import itertools

import numpy as np
import pytest

from latentc.components import load
from latentc.components.processes.discrete import Discrete
from latentc.components.processes.edm import Edm
from latentc.components.processes.formulas import NUMPY
from latentc.components.processes.prediction import functional
from latentc.components.processes.process import Parameterization
from latentc.components.processes.sde import Ve, Vp
from latentc.components.samplers.table import run

RNG = np.random.default_rng(5)
X = RNG.standard_normal((2, 3, 4, 4))
NOISE = RNG.standard_normal((12, *X.shape))
MIX = RNG.standard_normal((3, 3)) * 0.4
NETWORKS = {
    "vp": Parameterization(Vp(kind="vp", prior="marginal"), "noise"),
    "ve": Parameterization(Ve(kind="ve"), "scaled_score"),
    "iddpm": Parameterization(Discrete(kind="discrete", schedule="cosine", prior="marginal"), "noise"),
    "edm": Parameterization(Edm(kind="edm"), "preconditioned"),
}
LEVELS = Discrete(kind="discrete", schedule="cosine").levels


def network(x, t):
    """F: a smooth stand-in for a network."""
    return np.tanh(np.einsum("ij,bjhw->bihw", MIX, x)) + 0.1 * np.cos(t)


def scalings(kind, sigma):
    """(c_skip, c_out, c_in, c_noise) of Karras et al. 2022, table 1."""
    if kind == "vp":
        t = (np.sqrt(0.1**2 + 2 * 19.9 * np.log(1 + sigma**2)) - 0.1) / 19.9
        return 1.0, -sigma, 1 / np.sqrt(sigma**2 + 1), 999 * t
    if kind == "ve":
        return 1.0, sigma, 1.0, np.log(sigma / 2)
    if kind == "iddpm":
        return 1.0, -sigma, 1 / np.sqrt(sigma**2 + 1), float(np.argmin(np.abs(LEVELS - sigma)))
    total = sigma**2 + 0.5**2
    return 0.5**2 / total, sigma * 0.5 / np.sqrt(total), 1 / np.sqrt(total), np.log(sigma) / 4


def denoised(kind, x, sigma):
    c_skip, c_out, c_in, c_noise = scalings(kind, sigma)
    return c_skip * x + c_out * network(c_in * x, c_noise)


def rounded(kind, sigma):
    return LEVELS[np.argmin(np.abs(LEVELS - sigma))] if kind == "iddpm" and sigma else sigma


def steps_of(kind, low, high, count):
    """The noise levels of an ablation's discretisation, without the last, 0."""
    i = np.arange(count)
    if kind == "vp":
        sigma, _, _ = vp_schedule(low, high)
        return sigma(1 + i / (count - 1) * (1e-3 - 1))
    if kind == "ve":
        return np.sqrt(high**2 * (low**2 / high**2) ** (i / (count - 1)))
    if kind == "iddpm":
        within = LEVELS[::-1][(LEVELS[::-1] >= low) & (LEVELS[::-1] <= high)]
        return within[np.round((len(within) - 1) / (count - 1) * i).astype(int)]
    return (high ** (1 / 7) + i / (count - 1) * (low ** (1 / 7) - high ** (1 / 7))) ** 7


def vp_schedule(low, high):
    beta_d = 2 * (np.log(low**2 + 1) / 1e-3 - np.log(high**2 + 1)) / (1e-3 - 1)
    beta_min = np.log(high**2 + 1) - 0.5 * beta_d

    def sigma(t):
        return np.sqrt(np.exp(0.5 * beta_d * t**2 + beta_min * t) - 1)

    def slope(t):
        return 0.5 * (beta_min + beta_d * t) * (sigma(t) + 1 / sigma(t))

    def inverse(s):
        return (np.sqrt(beta_min**2 + 2 * beta_d * np.log(s**2 + 1)) - beta_min) / beta_d

    return sigma, slope, inverse


SCHEDULES = {
    "vp_time": vp_schedule,
    "variance": lambda low, high: (np.sqrt, lambda t: 0.5 / np.sqrt(t), np.square),
    "level": lambda low, high: (lambda t: t, lambda t: 1.0, lambda s: s),
}


def ablation(kind, discretisation, over, scaling, solver, count, low, high, churn):
    """Karras et al. 2022, algorithm 1 with a general schedule and scaling, and algorithm 2's noise."""
    sigma, slope, inverse = SCHEDULES[over](low, high)

    def s(t):
        return 1 / np.sqrt(1 + sigma(t) ** 2) if scaling == "vp" else 1.0

    def s_slope(t):
        return -sigma(t) * slope(t) * s(t) ** 3 if scaling == "vp" else 0.0

    def direction(x, t):
        by_x = slope(t) / sigma(t) + s_slope(t) / s(t)
        return by_x * x - slope(t) * s(t) / sigma(t) * denoised(kind, x / s(t), sigma(t))

    levels = [rounded(kind, level) for level in steps_of(discretisation, low, high, count)]
    times = [*(inverse(np.float64(level)) for level in levels), 0.0]
    x = X * sigma(times[0]) * s(times[0])
    for i, (t, after) in enumerate(itertools.pairwise(times)):
        gamma = min(churn["amount"] / count, np.sqrt(2) - 1) if churn["min"] <= sigma(t) <= churn["max"] else 0
        hat = inverse(rounded(kind, sigma(t) * (1 + gamma))) if gamma else t
        added = np.sqrt(max(sigma(hat) ** 2 - sigma(t) ** 2, 0)) * s(hat) * churn["noise"]
        x = s(hat) / s(t) * x + added * NOISE[i]
        d = direction(x, hat)
        ahead = x + (after - hat) * d
        last = i == count - 1
        x = ahead if solver == "euler" or last else x + (after - hat) * (d + direction(ahead, after)) / 2
    return x


SPACINGS = {"vp": "vp_levels", "ve": "log_snr", "iddpm": "iddpm_levels", "edm": "karras"}
NONE, SOME = ({"amount": a, "min": 0.05, "max": 30.0, "noise": 1.01} for a in (0.0, 3.0))


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("discretisation", SPACINGS)
@pytest.mark.parametrize("over", SCHEDULES)
@pytest.mark.parametrize("scaling", ["none", "vp"])
def test_ablation(kind, discretisation, over, scaling):
    low, high = 0.03, 60.0
    spacing = {
        "kind": SPACINGS[discretisation],
        "sigma_min": low,
        "sigma_max": high,
        "rounded": kind == "iddpm",
    }
    for solver, churn in itertools.product(["euler", "heun"], [NONE, SOME]):
        fields = {"kind": solver, "steps": 6, "spacing": spacing, "over": over, "scaling": scaling, "churn": churn}
        table = load("samplers")[solver].model_validate(fields).table(NETWORKS[kind])
        ours = run(table, network, X, NOISE)
        theirs = ablation(kind, discretisation, over, scaling, solver, 6, low, high, churn)
        assert np.max(np.abs(ours - theirs)) < 1e-7 * np.max(np.abs(theirs)), (solver, churn)


@pytest.mark.parametrize("churn", [NONE, SOME])
def test_the_usual_sampler_of_edm_is_heun(churn):
    table = load("samplers")["heun"].model_validate({"kind": "heun", "steps": 10, "churn": churn})
    theirs = ablation("edm", "edm", "level", "none", "heun", 10, 0.002, 80.0, churn)
    ours = run(table.table(NETWORKS["edm"]), network, X, NOISE)
    assert np.max(np.abs(ours - theirs)) < 1e-9 * np.max(np.abs(theirs))
    # in float32 the state loses nothing that matters
    single = run(table.table(NETWORKS["edm"]), network, X.astype(np.float32), NOISE)
    assert single.dtype == np.float32
    assert np.max(np.abs(single - theirs)) < 2e-6 * np.max(np.abs(theirs))


@pytest.mark.parametrize("kind", NETWORKS)
def test_losses_are_edms_weighted_losses_of_the_denoised_sample(kind):
    """weight(sigma) |D(x0 + n; sigma) - x0|^2 with table 1's weights is the squared error of the prediction."""
    target = NETWORKS[kind]
    process = target.process
    times = np.array([3.0, 500.0]) if kind == "iddpm" else process.training_time(NUMPY, np.array([0.2, 0.9]), "noise")
    point = process.point(times)
    sigma = (point.sigma / point.alpha)[:, None, None, None]
    noisy = X + sigma * NOISE[0]
    weight = (sigma**2 + 0.5**2) / (sigma * 0.5) ** 2 if kind == "edm" else 1 / sigma**2
    error = np.concatenate([denoised(kind, noisy[i : i + 1], float(sigma[i, 0, 0, 0])) for i in (0, 1)]) - X
    scale = (point.alpha * point.scale)[:, None, None, None]
    told = point.time
    out = np.concatenate([network((scale * noisy)[i : i + 1], told[i]) for i in (0, 1)])
    u, w = (
        np.broadcast_to(np.asarray(v, float), times.shape)[:, None, None, None]
        for v in functional(target.predicts, point)
    )
    np.testing.assert_allclose((out - (u * X + w * NOISE[0])) ** 2, weight * error**2, rtol=1e-6, atol=1e-12)
