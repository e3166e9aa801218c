"""Every table against an independent implementation: diffusers' schedulers, or the equation written out."""

import itertools

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DEISMultistepScheduler,
    DPMSolverMultistepScheduler,
    DPMSolverSinglestepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    HeunDiscreteScheduler,
    UniPCMultistepScheduler,
)
from processes import discrete_grid, flow_grid, karras_grid, path, schedule, spaced

from latentc.components.samplers import ode
from latentc.components.samplers.ddim import ddim
from latentc.components.samplers.ddpm import ddpm
from latentc.components.samplers.deis import deis, ipndm
from latentc.components.samplers.dpm_solver_pp import dpm_solver_pp
from latentc.components.samplers.dpm_solver_singlestep import dpm_solver_singlestep, singlestep_orders
from latentc.components.samplers.euler_maruyama import stochastic
from latentc.components.samplers.ode import euler, heun
from latentc.components.samplers.table import run
from latentc.components.samplers.unipc import unipc
from latentc.diagnostics import DiagnosticError
from latentc.spec import load_spec

SHAPE = (2, 3, 4, 4)
RNG = np.random.default_rng(7)
X = RNG.standard_normal(SHAPE)
NOISE = RNG.standard_normal((40, *SHAPE))
MIX = RNG.standard_normal((3, 3)) * 0.4


def network(x, t):
    """A smooth stand-in for a network, of order 1 whatever t."""
    return np.tanh(np.einsum("ij,bjhw->bihw", MIX, x)) + 0.1 * np.cos(t / 100.0)


def twice(x, t):
    """The same with a variance half in [-1, 1]."""
    return np.concatenate([network(x, t), np.sin(3 * x)], axis=1)


def follow(scheduler, function, noise=None, scale=None, **kwargs):
    """diffusers' own loop, with our network in float64 and our noise in place of its generator's."""
    x, drawn = torch.from_numpy(X) * (1.0 if scale is None else scale), iter(NOISE)
    if noise is not None:
        module = __import__(type(scheduler).__module__, fromlist=["randn_tensor"])
        noise.setattr(module, "randn_tensor", lambda *a, **k: torch.from_numpy(next(drawn)))
    for t in scheduler.timesteps:
        inputs = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        output = torch.from_numpy(function(inputs.numpy(), float(t)))
        x = scheduler.step(output, t, x, **kwargs).prev_sample
    return x.numpy()


def close(ours, theirs, tolerance=1e-5):
    assert np.max(np.abs(ours - theirs)) <= tolerance * np.max(np.abs(theirs))


def exact(scheduler):
    """The scheduler with its schedule in float64, so that what is compared is the solver."""
    ours = schedule("linear", 1000)
    for name, value in {
        "betas": ours.betas,
        "alphas": 1 - ours.betas,
        "alphas_cumprod": ours.alphas_cumprod,
        "alpha_t": np.sqrt(ours.alphas_cumprod),
        "sigma_t": np.sqrt(1 - ours.alphas_cumprod),
        "lambda_t": -np.log(ours.levels),
    }.items():
        if hasattr(scheduler, name):
            setattr(scheduler, name, torch.from_numpy(value))
    return scheduler


def grid(steps=10, spacing="leading", final="zero", destination=False):
    timesteps = spaced(1000, steps, spacing, destination=destination)
    return discrete_grid(schedule("linear", 1000), timesteps, final)


DIFFUSERS = {"noise": "epsilon", "x0": "sample", "velocity": "v_prediction"}


@pytest.mark.parametrize("predicts", DIFFUSERS)
@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large", "learned_range"])
@pytest.mark.parametrize("clip", [None, 1.0])
def test_ddpm(predicts, variance, clip, monkeypatch):
    theirs = exact(
        DDPMScheduler(
            1000,
            variance_type=variance,
            clip_sample=clip is not None,
            prediction_type=DIFFUSERS[predicts],
        )
    )
    theirs.set_timesteps(10)
    function = twice if variance == "learned_range" else network
    table = ddpm(grid(), predicts, variance, clip)
    close(run(table, function, X, NOISE), follow(theirs, function, monkeypatch))
    assert table.stochastic and table.steps == 10


@pytest.mark.parametrize("predicts", DIFFUSERS)
@pytest.mark.parametrize("eta", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("clip", [None, 1.0])
def test_ddim(predicts, eta, spacing, clip, monkeypatch):
    theirs = exact(
        DDIMScheduler(
            1000,
            timestep_spacing=spacing,
            prediction_type=DIFFUSERS[predicts],
            clip_sample=clip is not None,
        )
    )
    theirs.set_timesteps(10)
    theirs.final_alpha_cumprod = torch.tensor(1.0, dtype=torch.float64)
    table = ddim(grid(10, spacing), predicts, eta, clip)
    close(
        run(table, network, X, NOISE),
        follow(theirs, network, monkeypatch, eta=eta, use_clipped_model_output=True),
    )
    assert table.stochastic == (eta > 0)


@pytest.mark.parametrize("eta", [0.0, 0.7])
@pytest.mark.parametrize("predicts", ["noise", "x0"])
def test_ddim_with_the_noise_of_the_estimate_before_clipping(predicts, eta, monkeypatch):
    """As diffusers does by default, and DP3 with it."""
    theirs = exact(DDIMScheduler(1000, prediction_type={"noise": "epsilon", "x0": "sample"}[predicts]))
    theirs.set_timesteps(10)
    table = ddim(grid(10, "leading"), predicts, eta, 1.0, noise_of_clipped=False)
    close(run(table, network, X, NOISE), follow(theirs, network, monkeypatch, eta=eta))
    with pytest.raises(AssertionError):
        close(run(ddim(grid(10, "leading"), predicts, eta, 1.0), network, X, NOISE), run(table, network, X, NOISE))


@pytest.mark.parametrize("final", ["zero", "sigma_min"])
def test_ddpm_with_noise_to_the_end(final):
    """As coherence-aware diffusion's authors write a step, in the predicted noise; also where some noise is left."""
    points = grid(final=final)
    x = X
    for i, t in enumerate(points.times[: points.steps]):
        now, then = points.alpha[i] ** 2, points.alpha[i + 1] ** 2
        kept = now / then
        x = (x - (1 - kept) / np.sqrt(1 - now) * network(x, t)) / np.sqrt(kept) + np.sqrt(1 - kept) * NOISE[i]
    close(run(ddpm(points, "noise", "fixed_large", final_noise=True), network, X, NOISE), x, 1e-11)


@pytest.mark.parametrize("variance", ["fixed_large", "fixed_small"])
def test_noise_in_the_last_step_is_that_of_the_forward_step(variance):
    """Also if the objective names it."""
    changes = [f"objective.variance={variance}", "sampler={kind: ddpm, steps: 4, final_noise: true}"]
    if variance == "fixed_large":
        assert load_spec("digits_dit", overrides=changes).sampler.final_noise
    else:
        with pytest.raises(DiagnosticError, match="the last step has noise only if"):
            load_spec("digits_dit", overrides=changes)


def test_ddim_at_eta_one_has_ddpms_noise():
    # the same posterior, so the same sample for the same noise
    close(
        run(ddim(grid(), "noise", 1.0), network, X, NOISE),
        run(ddpm(grid(), "noise"), network, X, NOISE),
        1e-10,
    )


@pytest.mark.parametrize("scheduler", [EulerDiscreteScheduler, HeunDiscreteScheduler])
@pytest.mark.parametrize("predicts", ["noise", "velocity"])
def test_euler_and_heun_of_diffusion(scheduler, predicts):
    theirs = exact(scheduler(1000, timestep_spacing="trailing", prediction_type=DIFFUSERS[predicts]))
    theirs.set_timesteps(10)
    # theirs integrate x / alpha; the first state is ours divided by its alpha
    first = 1.0 / grid(10, "trailing").alpha[0]
    make = euler if scheduler is EulerDiscreteScheduler else heun
    table = make(grid(10, "trailing"), predicts)
    close(run(table, network, X), follow(theirs, network, scale=first), 1e-5)
    assert table.steps == 10


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("solver_type", ["midpoint", "heun"])
@pytest.mark.parametrize("final", ["zero", "sigma_min"])
@pytest.mark.parametrize("steps", [1, 2, 5, 20])
def test_dpm_solver_pp(order, solver_type, final, steps):
    theirs = exact(
        DPMSolverMultistepScheduler(
            1000,
            solver_order=order,
            solver_type=solver_type,
            final_sigmas_type=final,
            algorithm_type="dpmsolver++",
        )
    )
    theirs.set_timesteps(steps)
    table = dpm_solver_pp(grid(steps, "linspace", final, True), "noise", order, solver_type)
    close(run(table, network, X), follow(theirs, network), 1e-5)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("predict_x0", [True, False])
@pytest.mark.parametrize("steps", [6, 7, 8])
def test_dpm_solver_singlestep(order, predict_x0, steps):
    """The first stages of order 3 are others in diffusers than in the authors' code, which ours follows."""
    theirs = exact(
        DPMSolverSinglestepScheduler(
            1000,
            solver_order=order,
            final_sigmas_type="sigma_min",
            algorithm_type="dpmsolver++" if predict_x0 else "dpmsolver",
        )
    )
    theirs.set_timesteps(steps)
    table = dpm_solver_singlestep(
        grid(steps, "linspace", "sigma_min", True), "noise", singlestep_orders(steps, order), predict_x0
    )
    close(run(table, network, X), follow(theirs, network), 1e-5)


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("b_function", ["bh1", "bh2"])
@pytest.mark.parametrize("predict_x0", [True, False])
@pytest.mark.parametrize("lower", [True, False])
def test_unipc(order, b_function, predict_x0, lower):
    theirs = exact(
        UniPCMultistepScheduler(
            1000,
            solver_order=order,
            solver_type=b_function,
            predict_x0=predict_x0,
            lower_order_final=lower,
            final_sigmas_type="sigma_min",
        )
    )
    theirs.set_timesteps(8)
    table = unipc(grid(8, "linspace", "sigma_min", True), "noise", order, b_function, predict_x0, lower)
    close(run(table, network, X), follow(theirs, network), 1e-5)


@pytest.mark.parametrize("order", [2, 3])
def test_unipc_to_sigma_zero_and_without_corrector(order):
    for corrector in (True, False):
        theirs = exact(
            UniPCMultistepScheduler(1000, solver_order=order, disable_corrector=[] if corrector else list(range(8)))
        )
        theirs.set_timesteps(8)
        table = unipc(grid(8, "linspace", "zero", True), "noise", order, corrector=corrector)
        close(run(table, network, X), follow(theirs, network), 1e-5)


@pytest.mark.parametrize("make", [dpm_solver_pp, unipc])
def test_karras_sigmas(make):
    kind = DPMSolverMultistepScheduler if make is dpm_solver_pp else UniPCMultistepScheduler
    theirs = exact(kind(1000, use_karras_sigmas=True))
    theirs.set_timesteps(10)

    def timeless(x, t):
        return network(x, 0.0)  # theirs round the timesteps

    close(run(make(karras_grid(schedule("linear"), 10), "noise"), timeless, X), follow(theirs, timeless))


def test_flow_euler():
    theirs = FlowMatchEulerDiscreteScheduler(1000)
    theirs.set_timesteps(sigmas=np.linspace(1, 0, 11)[:-1].tolist())
    ours = run(euler(flow_grid(path("linear"), 10), "flow_velocity", ode.TIME), network, X)
    # their velocity points to the noise and their timestep is 1000 * (1 - t)
    close(ours, follow(theirs, lambda x, t: -network(x, 1 - t / 1000)))


def test_flow_dpm_solver_pp_and_unipc():
    grid = flow_grid(path("linear"), 10, 1e-3)
    for make, kind in (
        (dpm_solver_pp, DPMSolverMultistepScheduler),
        (unipc, UniPCMultistepScheduler),
    ):
        theirs = kind(1000, use_flow_sigmas=True, prediction_type="flow_prediction")
        theirs.set_timesteps(10)
        theirs.sigmas = torch.from_numpy(1 - grid.times)
        close(run(make(grid, "flow_velocity"), timeless_velocity, X), follow(theirs, reversed_velocity))


def timeless_velocity(x, t):
    return network(x, 0.0)


def reversed_velocity(x, t):
    return -network(x, 0.0)


@pytest.mark.parametrize("kind", ["linear", "gvp", "vp"])
@pytest.mark.parametrize("predicts", ["flow_velocity", "noise", "score"])
def test_flow_heun_is_the_trapezoid(kind, predicts):
    start, stop = (0.0 if kind == "vp" else 1e-3), 1 - 1e-3
    at, times = path(kind), np.linspace(start, stop, 10)

    def velocity(x, t):
        out = network(x, t)
        if predicts == "flow_velocity":
            return out
        p = at.point(t)
        score = out if predicts == "score" else -out / p.sigma
        ratio = p.d_alpha / p.alpha  # SiT's change of variables
        return ratio * x + (ratio * p.sigma**2 - p.sigma * p.d_sigma) * score

    x = X
    for t, following in itertools.pairwise(times):
        slope = velocity(x, t)
        guess = x + (following - t) * slope
        x = x + (following - t) / 2 * (slope + velocity(guess, following))
    close(run(heun(flow_grid(at, 9, start, stop), predicts, ode.TIME), network, X), x, 1e-9)


FORMS = ["constant", "sbdm", "sigma", "linear", "decreasing", "increasing_decreasing"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("last", ["mean", "tweedie", "euler", "none"])
@pytest.mark.parametrize("heun", [False, True])
@pytest.mark.parametrize("kind", ["linear", "gvp", "vp"])
def test_stochastic_samplers_are_sits(form, last, heun, kind):
    at, norm, size, start, stop, steps = path(kind), 0.8, 0.04, 1e-3, 0.96, 6

    def coefficient(t):
        p = at.point(t)
        alpha, sigma, d_alpha, d_sigma = p.alpha, p.sigma, p.d_alpha, p.d_sigma
        return {
            "constant": norm,
            "sbdm": norm * (d_alpha / alpha * sigma**2 - sigma * d_sigma),
            "sigma": norm * sigma,
            "linear": norm * (1 - t),
            "decreasing": 0.25 * (norm * np.cos(np.pi * t) + 1) ** 2,
            "increasing_decreasing": norm * np.sin(np.pi * t) ** 2,
        }[form]

    def score(x, t):  # from a velocity, as SiT writes it
        p = at.point(t)
        ratio = p.alpha / p.d_alpha
        return (ratio * network(x, t) - x) / (p.sigma**2 - ratio * p.d_sigma * p.sigma)

    def drift(x, t):
        return network(x, t) + coefficient(t) * score(x, t)

    times = np.linspace(start, stop, steps if last != "none" else steps + 1)
    step, x = times[1] - times[0], X
    for t, z in zip(times[:-1], NOISE, strict=False):
        kick = np.sqrt(2 * coefficient(t)) * np.sqrt(step) * z
        if heun:
            there = x + kick
            slope = drift(there, t)
            x = there + step / 2 * (slope + drift(there + step * slope, t + step))
        else:
            x = x + drift(x, t) * step + kick
    if last == "mean":
        x = x + drift(x, stop) * size
    elif last == "euler":
        x = x + network(x, stop) * size
    elif last == "tweedie":
        x = (x + at.point(stop).sigma ** 2 * score(x, stop)) / at.point(stop).alpha

    noisy = flow_grid(at, len(times) - 1, start, stop)
    table = stochastic(noisy, "flow_velocity", form, norm, last, size, heun)
    close(run(table, network, X, NOISE), x, 1e-9)
    assert table.steps == steps


def test_ipndm_is_adams_bashforth_on_the_noise():
    """The authors' formulas over DDIM's transfer, the first steps of lower order."""
    steps = grid(8, "trailing")
    weights = [[1], [1.5, -0.5], [23 / 12, -16 / 12, 5 / 12], [55 / 24, -59 / 24, 37 / 24, -9 / 24]]
    x, past = X, []
    for i in range(8):
        past.insert(0, network(x, steps.times[i]))
        noise = sum(w * e for w, e in zip(weights[min(i, 3)], past, strict=False))
        data = (x - steps.sigma[i] * noise) / steps.alpha[i]
        x = steps.alpha[i + 1] * data + steps.sigma[i + 1] * noise
    close(run(ipndm(steps, "noise"), network, X), x, 1e-9)


@pytest.mark.parametrize("variable", ["rho", "log_rho"])
@pytest.mark.parametrize("make", [deis, ipndm])
def test_adams_of_first_order_is_ddim(make, variable):
    steps = grid(7, "linspace", destination=True)
    given = (1, variable) if make is deis else (1,)
    close(run(make(steps, "velocity", *given), network, X), run(ddim(steps, "velocity"), network, X), 1e-9)


@pytest.mark.parametrize("make", [deis, ipndm])
def test_a_score_moves_the_first_step_alike_for_estimates_of_noise_and_data(make):
    moved = [
        table.columns["d"][0] * table.columns["d_guide"][0]
        for table in (make(grid(7, "linspace", destination=True), p) for p in ("noise", "velocity", "x0"))
    ]
    assert moved == pytest.approx([moved[0]] * 3) and moved[0] > 0


@pytest.mark.parametrize("order", [1, 2, 3])
def test_deis(order):
    theirs = exact(DEISMultistepScheduler(1000, solver_order=order, lower_order_final=False))
    theirs.set_timesteps(10)
    levels = discrete_grid(schedule("linear", 1000), theirs.timesteps.numpy(), "sigma_min")
    close(run(deis(levels, "noise", order), network, X), follow(theirs, network))


@pytest.mark.parametrize("make", [ddim, dpm_solver_pp, unipc, heun, deis])
def test_every_solver_finds_the_data_of_a_perfect_network(make):
    """With the exact noise of one data point as the prediction, any solver ends at that point."""
    target = RNG.standard_normal(SHAPE)
    steps = grid(12, "trailing")
    at = dict(zip(steps.times[:-1].tolist(), zip(steps.alpha, steps.sigma, strict=True), strict=False))

    def perfect(x, t):
        alpha, sigma = at[t]
        return (x - alpha * target) / sigma

    close(run(make(steps, "noise"), perfect, X), target, 1e-9)


SOLVERS = {
    "heun": heun,
    "ipndm": ipndm,
    "deis": deis,
    "deis rho": lambda g, p: deis(g, p, 3, "rho"),
    "deis 4": lambda g, p: deis(g, p, 4),
}


def of_velocity(x, t):
    """A smooth network, in the dtype of x."""
    return (np.sin(1.3 * x + 0.002 * t) - 0.3 * x).astype(x.dtype)


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 9])
@pytest.mark.parametrize("make", SOLVERS.values(), ids=list(SOLVERS))
def test_a_prediction_of_velocity_is_one_of_the_noise(make, steps):
    """Estimates of the data and of the noise are the same solver, in float64."""
    points = grid(steps, "leading")
    at = dict(zip(points.times[:-1].tolist(), zip(points.alpha, points.sigma, strict=True), strict=False))

    def of_noise(x, t):
        alpha, sigma = at[t]
        return sigma * x + alpha * of_velocity(x, t)

    close(run(make(points, "velocity"), of_velocity, X), run(make(points, "noise"), of_noise, X), 1e-11)


@pytest.mark.parametrize("make", SOLVERS.values(), ids=list(SOLVERS))
def test_half_the_digits_are_enough_from_pure_noise(make):
    """At t = 999 of a cosine schedule alpha is 5e-5: what is small must not be a difference of what is large."""
    points = discrete_grid(schedule("cosine", 1000), spaced(1000, 12, "trailing"))
    assert points.alpha[0] < 1e-4
    table = make(points, "velocity")
    exact, rounded = (run(table, of_velocity, X.astype(dtype)) for dtype in (np.float64, np.float32))
    assert rounded.dtype == np.float32
    close(rounded, exact, 3e-6)


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="orders"):
        dpm_solver_pp(grid(), "noise", 4)
    with pytest.raises(ValueError, match="orders"):
        unipc(grid(), "noise", 0)
    with pytest.raises(ValueError, match="end at sigma_min"):
        unipc(grid(), "noise", predict_x0=False)
    with pytest.raises(ValueError, match="cannot be computed"):
        euler(flow_grid(path("linear"), 5), "noise", ode.TIME)
    with pytest.raises(ValueError, match="start later"):
        stochastic(flow_grid(path("linear"), 4, 0.0, 0.96), "flow_velocity", "sbdm")
    with pytest.raises(ValueError, match="start the path later"):
        unipc(flow_grid(path("linear"), 5), "flow_velocity")
    with pytest.raises(ValueError, match="start later"):
        deis(flow_grid(path("linear"), 5), "flow_velocity")


def test_control_the_comparison_can_fail():
    theirs = exact(DDIMScheduler(1000, clip_sample=False))
    theirs.set_timesteps(10)
    ours = run(ddim(grid(10, "trailing"), "noise"), network, X)
    with pytest.raises(AssertionError):
        close(ours, follow(theirs, network))
