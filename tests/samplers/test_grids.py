"""Schedules, paths, conversions and grids against closed forms and against diffusers."""

from dataclasses import replace

import numpy as np
import pytest
from diffusers import DDPMScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler
from processes import discrete_grid, flow_grid, karras_grid, path, schedule, spaced

from latentc.components import find, load
from latentc.components.processes.formulas import NUMPY
from latentc.components.processes.prediction import KINDS, Point, conversion
from latentc.components.processes.process import Parameterization
from latentc.components.samplers.spacings.timesteps import respaced

NAMES = {"linear": "linear", "scaled_linear": "scaled_linear", "cosine": "squaredcos_cap_v2"}


@pytest.mark.parametrize("kind", NAMES)
def test_schedule_is_diffusers(kind):
    ours = schedule(kind, 1000, None if kind == "cosine" else 1e-4, None if kind == "cosine" else 0.02)
    theirs = DDPMScheduler(1000, beta_schedule=NAMES[kind])
    # their cumulative product is float32
    np.testing.assert_allclose(ours.alphas_cumprod, theirs.alphas_cumprod.numpy(), rtol=2e-4)
    np.testing.assert_allclose(ours.betas, theirs.betas.numpy(), rtol=1e-4)
    point = ours.point(np.arange(1000))
    np.testing.assert_allclose(point.alpha**2 + point.sigma**2, 1.0)


def test_linear_schedule_is_scaled_with_its_length():
    assert schedule("linear", 1000).betas[[0, -1]] == pytest.approx([1e-4, 0.02])
    assert schedule("linear", 100).betas[[0, -1]] == pytest.approx([1e-3, 0.2])
    with pytest.raises(ValueError, match="between 0 and 1"):
        _ = schedule("linear", 10).betas


@pytest.mark.parametrize("kind", ["linear", "gvp", "vp"])
def test_path_runs_from_noise_to_data_and_has_its_derivatives(kind):
    ours, t, step = path(kind), np.linspace(0.05, 0.95, 19), 1e-6
    after, before, here = ours.point(t + step), ours.point(t - step), ours.point(t)
    np.testing.assert_allclose((after.alpha - before.alpha) / (2 * step), here.d_alpha, rtol=1e-6)
    np.testing.assert_allclose((after.sigma - before.sigma) / (2 * step), here.d_sigma, rtol=1e-6)
    ends = ours.point([0.0, 1.0])
    assert ends.alpha[1] == pytest.approx(1) and ends.sigma[1] == pytest.approx(0)
    assert ends.alpha[0] < 0.01 and ends.sigma[0] > 0.99


@pytest.mark.parametrize("noise_time", [0, 1])
@pytest.mark.parametrize("kind", ["linear", "gvp"])
def test_noise_levels_of_a_normal_logarithm(kind, noise_time):
    options = {"noise_time": noise_time, "times": "log_normal", "logit_mean": -0.4, "logit_std": 1.2}
    process = load("processes")["interpolant"].example(path=kind, **options)
    draw = np.array([-2.0, -0.3, 0.0, 1.7])
    t = process.training_time(NUMPY, draw, "flow_velocity")
    np.testing.assert_allclose(process.point(t).level, np.exp(1.2 * draw - 0.4))


@pytest.mark.parametrize("source", KINDS)
@pytest.mark.parametrize("target", KINDS)
def test_conversion_recovers_the_target(source, target):
    point = replace(path("gvp").point(np.linspace(0.1, 0.9, 5)), preconditioned=(0.7, -0.4))
    x0, noise = np.random.default_rng(0).standard_normal((2, 5))
    values = {
        "noise": noise,
        "x0": x0,
        "velocity": point.alpha * noise - point.sigma * x0,
        "flow_velocity": point.d_alpha * x0 + point.d_sigma * noise,
        "score": -noise / point.sigma,
        "scaled_score": -noise,
        "preconditioned": 0.7 * x0 - 0.4 * noise,
    }
    a, b = conversion(source, target, point)
    np.testing.assert_allclose(a * (point.alpha * x0 + point.sigma * noise) + b * values[source], values[target])


def test_conversion_at_the_ends():
    noise_end = Point(np.array([0.0]), np.array([1.0]), np.array([1.0]), np.array([-1.0]))
    assert conversion("noise", "score", noise_end)[1] == -1
    assert conversion("flow_velocity", "x0", noise_end)[0] == 1
    with pytest.raises(ValueError, match="x0 cannot be computed from noise if alpha = 0"):
        conversion("noise", "x0", noise_end)
    with pytest.raises(ValueError, match="needs a path"):
        conversion("noise", "flow_velocity", Point(np.array([0.5]), np.array([0.5])))


def test_respacing_is_improved_ddpms():
    assert respaced(1000, "10").tolist() == [999, 888, 777, 666, 555, 444, 333, 222, 111, 0]
    assert respaced(1000, "ddim10").tolist() == list(range(900, -1, -100))
    # the example of improved DDPM's own documentation: 300 timesteps, sections of 10, 15 and 20
    steps = respaced(300, "10,15,20")
    assert len(steps) == 45
    assert [int(np.sum((steps >= low) & (steps < low + 100))) for low in (0, 100, 200)] == [10, 15, 20]
    assert respaced(1000, "1").tolist() == [0]
    for text in ("0", "x", "600,1", "ddim7.5", "-3", "ddim999"):
        with pytest.raises(ValueError):
            respaced(1000, text)


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("steps", [1, 7, 10, 50])
def test_spacing_is_diffusers(spacing, steps):
    for scheduler, destination in ((DDPMScheduler, False), (DPMSolverMultistepScheduler, True)):
        theirs = scheduler(1000, timestep_spacing=spacing)
        theirs.set_timesteps(steps)
        ours = spaced(1000, steps, spacing, destination=destination)
        if (steps, spacing, destination) == (1, "linspace", False):
            continue  # theirs is timestep 0: numpy's linspace of one point
        assert ours.tolist() == theirs.timesteps.tolist()


@pytest.mark.parametrize(("asked", "steps"), [(10, 10), (7, 8), (30, 31), (150, 167)])
def test_latent_diffusion_takes_every_multiple(asked, steps):
    """As its `make_ddim_timesteps`, which counts in strides of T // S from 1 and so may take more steps than S."""
    wanted = np.arange(0, 1000, 1000 // asked)[::-1] + 1
    spacing = load("samplers/spacings")["leading"].example(offset=1, stride=1000 // asked)
    assert spacing.timesteps(1000, steps).tolist() == wanted.tolist()
    with pytest.raises(ValueError, match="beyond the end of the schedule"):
        spacing.timesteps(1000, steps + 1)


@pytest.mark.parametrize(("total", "steps", "stride"), [(1000, 126, 8), (1000, 7, 167), (200, 8, 29), (10, 2, 10)])
def test_descending_timesteps_are_umds(total, steps, stride):
    """Their `-T // steps` rounds the stride up; timestep 0 follows."""
    wanted = [total - 1 - stride * i for i in range(steps - 1)]
    assert spaced(total, steps, "descending").tolist() == [*wanted, 0]


def test_spacing_refuses_what_cannot_be():
    for arguments in (
        (1000, 0),
        (1000, 1001),
        (10, 10, "leading", 1),
        (10, 10, "linspace", 0, True),
        (10, 8, "descending"),
    ):
        with pytest.raises(ValueError):
            spaced(*arguments)


@pytest.mark.parametrize("final", ["zero", "sigma_min"])
@pytest.mark.parametrize("scheduler", [DPMSolverMultistepScheduler, UniPCMultistepScheduler])
def test_karras_grid_is_diffusers(final, scheduler):
    theirs = scheduler(1000, beta_schedule="linear", use_karras_sigmas=True, final_sigmas_type=final)
    theirs.set_timesteps(12)
    grid = karras_grid(schedule("linear"), 12, final)
    np.testing.assert_allclose(grid.sigma / grid.alpha, theirs.sigmas.numpy(), rtol=2e-4)  # float32 betas there
    # theirs are rounded, or cut, to whole timesteps
    assert np.max(np.abs(grid.times[:-1] - theirs.timesteps.numpy())) <= 1.0
    assert grid.times[0] == 999 and grid.times[-2] == pytest.approx(0, abs=1e-9)


def test_discrete_grid_ends_where_asked():
    levels = schedule("cosine", 100)
    zero, floor = (discrete_grid(levels, spaced(100, 5), final) for final in ("zero", "sigma_min"))
    assert (zero.alpha[-1], zero.sigma[-1]) == (1, 0)
    assert (floor.alpha[-1], floor.sigma[-1]) == (levels.point(0.0).alpha, levels.point(0.0).sigma)


def test_flow_grid_has_one_point_more_than_steps():
    grid = flow_grid(path("linear"), 9)
    np.testing.assert_allclose(grid.times, np.linspace(0, 1, 10))
    assert grid.steps == 9 and len(grid.alpha) == 10


def test_timesteps_between_whole_ones():
    levels = schedule("linear", 1000)
    grid = discrete_grid(levels, [999, 500.5, 500, 0])
    alpha = levels.point(np.arange(1000)).alpha
    assert grid.alpha[[0, 2, 3]].tolist() == alpha[[999, 500, 0]].tolist()
    assert alpha[501] < grid.alpha[1] < alpha[500]
    np.testing.assert_allclose(grid.alpha**2 + grid.sigma**2, 1.0)
    # the level a Karras grid asks for is the level of the time it finds
    karras = karras_grid(levels, 7)
    np.testing.assert_allclose(discrete_grid(levels, karras.times[:-1]).sigma, karras.sigma, rtol=1e-9)


def test_levels_beyond_the_last_noisy_step_are_refused():
    """The last step of a stochastic sampler starts at a time of its own, past which steps would run backwards."""
    target = Parameterization(find("processes", "interpolant")(kind="interpolant"), "flow_velocity")
    make = find("samplers", "euler_maruyama")
    assert make(kind="euler_maruyama", steps=4, spacing={"kind": "karras"}).table(target)
    with pytest.raises(ValueError, match="beyond the end"):
        make(kind="euler_maruyama", steps=4, spacing={"kind": "karras", "sigma_min": 0.002}).table(target)


@pytest.mark.parametrize("sampler", ["ddim", "dpm_solver_pp"])
@pytest.mark.parametrize("path", ["linear", "gvp"])
def test_a_path_is_sampled_from_its_noise_whichever_way_its_time_runs(sampler, path):
    """Times from noise (1) to data (0) are those from 0 to 1, mirrored."""
    grids = []
    for end in (0, 1):
        process = load("processes")["interpolant"].example(path=path, noise_time=end)
        solver = find("samplers", sampler)(kind=sampler, steps=4, spacing="even")
        grids.append(solver.grid(Parameterization(process, "velocity")).times)
    assert np.allclose(grids[1], 1 - grids[0], rtol=0, atol=1e-12) and 0.99 < grids[1][0] < 1
