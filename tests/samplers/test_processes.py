"""Every process: its formulas in numpy and in the IR, its derivatives, its inverse, and the exact solution that every
solver on every spacing must converge to."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latentc.components import load
from latentc.components.processes.discrete import Discrete
from latentc.components.processes.formulas import NUMPY, Numpy, Symbolic
from latentc.components.processes.prediction import KINDS, conversion, functional
from latentc.components.processes.process import Parameterization, time_column
from latentc.components.samplers import ode
from latentc.components.samplers.ddim import ddim
from latentc.components.samplers.deis import deis
from latentc.components.samplers.dpm_solver_pp import dpm_solver_pp
from latentc.components.samplers.dpm_solver_singlestep import dpm_solver_singlestep
from latentc.components.samplers.grid import Grid, level_range, nearest
from latentc.components.samplers.table import run
from latentc.components.samplers.unipc import unipc
from latentc.ir.builder import ModuleBuilder
from latentc.ir.interpret import Interpreter
from latentc.ir.types import B, f32, i64
from latentc.systems.rin.signal import Signal

VARIANTS = {
    "discrete": [{"schedule": name} for name in ("linear", "scaled_linear", "cosine")],
    "interpolant": [{"path": name} for name in ("linear", "gvp", "vp")],
    "ve": [{}, {"time_input": "sigma", "sigma_max": 50.0}],
}
PROCESSES = {
    " ".join([kind, *map(str, fields.values())]): cls.model_validate({"kind": kind, **fields})
    for kind, cls in load("processes").items()
    for fields in VARIANTS.get(kind, [{}])
}
VARIABLES = (ode.TIME, ode.LEVEL, *(ode.Variable(v, s) for v in ("variance", "vp_time") for s in ("none", "vp")))


@pytest.fixture
def in_double(monkeypatch: pytest.MonkeyPatch) -> None:
    """Formulas whose results the host rounds to float32 (`signal`'s power) are left in float64."""
    monkeypatch.setattr(Numpy, "single", lambda self, x: np.asarray(x, np.float64))


def inner_times(process, count=7):
    """Times of a process away from its ends; whole ones of a schedule."""
    times = process.first + np.linspace(0.1, 0.9, count) * (process.last - process.first)
    return np.round(times) if process.WHOLE else times


@pytest.mark.usefixtures("in_double")
@pytest.mark.parametrize("name", PROCESSES)
def test_formulas_are_one_text_in_numpy_and_in_the_ir(name):
    process = PROCESSES[name]
    times = inner_times(process)
    b = ModuleBuilder().function("formulas")
    m = Symbolic(b, 4)
    t = b.input("t", i64(B) if process.WHOLE else f32(B))
    at, scaled = time_column(process, m, t), process.preconditioning
    every = {"alpha": process.alpha, "sigma": process.sigma}
    pairs_of = {"d": process.derivatives}
    if scaled is not None:
        every["c_in"] = scaled.input_scale
        pairs_of |= {"own": scaled.functional, "denoiser": scaled.denoiser}
    found = {key: formula(m, at) for key, formula in every.items()}
    expected = {key: formula(NUMPY, times) for key, formula in every.items()}
    found["time"], expected["time"] = process.network_time(m, t), process.network_time(NUMPY, times)
    for key, formula in pairs_of.items():
        pairs = formula(m, at), formula(NUMPY, times)
        if pairs[1][0] is not None:
            for i in (0, 1):
                found[f"{key}{i}"], expected[f"{key}{i}"] = pairs[0][i], pairs[1][i]
    for key in [key for key, value in found.items() if isinstance(value, float)]:
        assert found.pop(key) == expected.pop(key)
    b.output(*found.values())
    b.module.entries["formulas"] = b.finish()
    outs = Interpreter(b.module.finish()).run("formulas", times)
    assert found.keys() == expected.keys()
    for key, out in zip(found, outs, strict=True):
        np.testing.assert_allclose(out.ravel(), np.broadcast_to(expected[key], times.shape), rtol=1e-9, err_msg=key)


@pytest.mark.usefixtures("in_double")
@pytest.mark.parametrize("name", PROCESSES)
def test_derivatives_inverse_and_ends(name):
    process = PROCESSES[name]
    times = inner_times(process)
    np.testing.assert_allclose(process.time_of_level(process.point(times).level), times, rtol=1e-9)
    assert process.data is None or float(process.point(process.data).sigma) == 0.0
    begun = 1 - 999 / 1000 if isinstance(process, Discrete) else 0.0  # timestep 999 of 1000 is a step from the noise
    assert process.progress([process.first, process.last]).tolist() == [begun, 1.0]
    assert np.all(np.diff(process.point(times).level) < 0) and np.all(np.diff(process.progress(times)) > 0)
    point = process.point(times)
    if point.d_alpha is None:
        with pytest.raises(ValueError, match="needs a path"):
            functional("flow_velocity", point)
        return
    step = 1e-6 * abs(process.last - process.first)
    near = {"rtol": 1e-5, "atol": 1e-8}
    after, before = process.point(times + step), process.point(times - step)
    np.testing.assert_allclose((after.alpha - before.alpha) / (2 * step), point.d_alpha, **near)
    np.testing.assert_allclose((after.sigma - before.sigma) / (2 * step), point.d_sigma, **near)


@pytest.mark.parametrize("name", PROCESSES)
def test_levels_of_a_grid_are_positive_and_finite_and_timesteps_the_nearest(name):
    process = PROCESSES[name]
    low, high = level_range(process)
    assert 0 < low < high < np.inf
    times = inner_times(process) + 0.3
    found = nearest(process, times)
    if not process.WHOLE:
        assert found is times
        return
    every = np.arange(float(process.steps))
    apart = np.abs(process.point(times).level[:, None] - process.point(every).level)
    np.testing.assert_array_equal(found, every[apart.argmin(axis=1)])
    assert np.all(process.point(found).sigma > 0.0)


@pytest.mark.parametrize("name", PROCESSES)
def test_training_times_are_the_process_s(name):
    process = PROCESSES[name]
    draws = np.array([0, 999]) if process.WHOLE else np.array([0.0, 0.3, 1.0])
    times = process.training_time(NUMPY, draws, "noise")
    levels = process.point(np.asarray(times, float)).level
    assert np.all(levels > 0) and np.all(np.isfinite(levels))


# ---- the exact solution: data that is normal with deviation S

S = 0.6
X = np.array([[[[1.3]]]])


def spread(process, t):
    """Deviation of the state; x / spread is constant along the probability flow."""
    point = process.point(t)
    return np.sqrt(point.alpha**2 * S**2 + point.sigma**2)


def exact_network(target, times):
    """The exact network, at the times that it is told on a grid."""
    point = target.process.point(times)
    u, w = functional(target.predicts, point)
    of_state = (u * point.alpha * S**2 + w * point.sigma) / (point.scale * spread(target.process, times) ** 2)

    def network(x, t):
        return np.asarray(of_state[np.argmin(np.abs(point.time - t))] * x)

    return network


def error(solver, target, grid):
    """Relative error at the end of a grid."""
    table = solver(grid, target.predicts)
    start, end = (spread(target.process, t) for t in (grid.times[0], grid.times[-1]))
    result = run(table, exact_network(target, grid.times), X)
    return float(np.abs(result / (table.prior * X * end / start) - 1.0).max())


def singlestep(order):
    return lambda grid, predicts: dpm_solver_singlestep(grid, predicts, [order] * (grid.steps // order))


SOLVERS = {
    "ddim": (ddim, 1),
    **{f"euler {v.over} {v.scaling}": (partial(ode.euler, variable=v), 1) for v in VARIABLES},
    **{f"heun {v.over} {v.scaling}": (partial(ode.heun, variable=v), 2) for v in VARIABLES},
    "dpm_solver_pp 2": (partial(dpm_solver_pp, order=2, lower_order_final=False), 2),
    "dpm_solver_pp 2 heun": (partial(dpm_solver_pp, order=2, solver_type="heun", lower_order_final=False), 2),
    "unipc 2": (partial(unipc, order=2, lower_order_final=False), 2),
    "unipc 2 noise": (partial(unipc, order=2, predict_x0=False, lower_order_final=False), 2),
    "deis 2": (partial(deis, order=2), 2),
    **{f"dpm_solver_singlestep {n}": (singlestep(n), n) for n in (1, 2, 3)},
}
# levels, falling, as a function of places from 0 to 1
SPACINGS = {
    "log_snr": lambda p: 10.0 * 0.01**p,
    "karras": lambda p: (8.0 ** (1 / 7) + p * (0.2 ** (1 / 7) - 8.0 ** (1 / 7))) ** 7,
    "quadratic in log_snr": lambda p: 5.0 * 0.06 ** (p * (2 - p) * 0.9),
}


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    st.sampled_from(sorted(PROCESSES)),
    st.sampled_from(sorted(SOLVERS)),
    st.sampled_from(sorted(SPACINGS)),
    st.sampled_from(sorted(KINDS)),
)
def test_every_solver_converges_on_every_process_at_its_order(name, solver, spacing, predicts):
    """Four times the steps divide the error by 4^order, or by more."""
    target = Parameterization(PROCESSES[name], predicts)
    make, order = SOLVERS[solver]
    errors = []
    for steps in (48, 192):
        levels = SPACINGS[spacing](np.linspace(0.0, 1.0, steps + 1))
        grid = Grid(target.process, target.process.time_of_level(levels))
        try:
            errors.append(error(make, target, grid))
        except ValueError as refused:
            assert any(
                reason in str(refused) for reason in ("cannot be computed", "`preconditioned` prediction", "path")
            )
            return
    coarse, fine = errors
    assert fine < 0.05
    assert np.log(coarse / fine) / np.log(4) > order - 0.2 or fine < 1e-7


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("kind", KINDS)
def test_conversions_hold_for_every_process(name, kind):
    """From any prediction of an exact network the data is found, wherever the conversion exists."""
    process = PROCESSES[name]
    point = process.point(inner_times(process))
    x0, noise = np.random.default_rng(0).standard_normal((2, 7))
    try:
        u, w = functional(kind, point)
    except ValueError:
        return
    a, b = conversion(kind, "x0", point)
    np.testing.assert_allclose(a * (point.alpha * x0 + point.sigma * noise) + b * (u * x0 + w * noise), x0, rtol=1e-6)


def test_the_last_level_of_the_plain_cosine_is_that_of_float32() -> None:
    """RIN is told and sampled at 1 - gamma = 2^-23 at the data, where the exact value is a fifth less."""
    process = Signal(kind="signal", schedule="plain_cosine")
    assert 1 - process.gamma(NUMPY, np.zeros(1)) == 2.0**-23
