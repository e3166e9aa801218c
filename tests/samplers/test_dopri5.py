"""Dormand and Prince's method in steps that it chooses, against scipy's RK45 and the algorithm of torchdiffeq."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy.integrate import solve_ivp
from test_program import CLASSES, OBJECTIVES, RNG, SCALE, SHAPE, TABLE, X, Y, forward, network, spec

from latentc.components import load
from latentc.components.contract import Program
from latentc.components.processes.prediction import conversion
from latentc.diagnostics import DiagnosticError
from latentc.export.bundle import bundle_from_lowered
from latentc.export.forms import without_early_ends
from latentc.ir.builder import ModuleBuilder
from latentc.ir.core import Module
from latentc.ir.interpret import Interpreter
from latentc.ir.verify import verify
from latentc.lower import lower
from latentc.spec import load_spec

Dopri5: Any = load("samplers")["dopri5"]
CONTINUOUS = [name for name in OBJECTIVES if not name.startswith("diffusion")]
WEIGHTS = {"main.embedding": TABLE}


def given(objective: str) -> Any:
    """As much of a spec as the sampler looks at."""
    found: Any = spec(objective)
    found.networks = {}
    found.data.fields["x"] = SimpleNamespace(shape=SHAPE, range=(-1.0, 1.0), axes=("channel", "row", "column"))
    return found


def built(objective: str, **values: Any) -> tuple[Any, Module, tuple[Program, ...]]:
    sampler = Dopri5.model_validate({"kind": "dopri5", "max_steps": 100, **values})
    assert list(sampler.problems(given(objective))) == []
    module = ModuleBuilder()
    channels = OBJECTIVES[objective].out_channels(SHAPE[0])
    programs = sampler.programs(module, {"main": network(module, channels)}, given(objective))
    return sampler, verify(module.finish(), "train"), programs


def velocity(objective: str, rows: slice, scale: Any) -> Any:
    """dx/dt of some samples, guided by `scale` (a number per sample, or of the time)."""
    target = OBJECTIVES[objective].parameterization()
    labels, null = Y[rows], np.full(len(Y[rows]), CLASSES)

    def rate(t: float, x: np.ndarray) -> np.ndarray:
        a, b = conversion(target.predicts, "flow_velocity", target.process.point(t))
        seen, told = x * target.process.point(t).scale, float(target.process.point(t).time)
        made, empty = (forward(seen, told, y, SHAPE[0]) for y in (labels, null))
        s = scale(t) if callable(scale) else scale
        return np.asarray(a * x + b * (empty + np.reshape(s, (-1, 1, 1, 1)) * (made - empty)))

    return rate


def rk45(rate: Any, ends: tuple[float, float], x: np.ndarray, tolerance: float) -> tuple[np.ndarray, int]:
    """The result of scipy, and how often it evaluates."""
    found = solve_ivp(lambda t, v: rate(t, v.reshape(x.shape)).ravel(), ends, x.ravel(), rtol=tolerance, atol=tolerance)
    return found.y[:, -1].reshape(x.shape), found.nfev


def started(sampler: Any, objective: str) -> tuple[tuple[float, float], np.ndarray]:
    target = OBJECTIVES[objective].parameterization()
    ends = sampler.interval(target)
    return (ends.start, ends.stop), X * target.process.prior_scale(ends.start)


@pytest.mark.parametrize("objective", CONTINUOUS)
def test_it_is_scipys(objective: str) -> None:
    """As many evaluations and the same result, of the batch as one vector and of each sample alone."""
    for tolerance, norm in ((1e-3, "batch"), (1e-5, "batch"), (1e-4, "sample")):
        values = {"rtol": tolerance, "atol": tolerance, "norm": norm, "guidance": {"scale": 2.0}}
        sampler, module, programs = built(objective, **values)
        x, made = Interpreter(module, WEIGHTS).run(programs[0].entry, X, Y, SCALE)
        ends, start = started(sampler, objective)
        for rows in [slice(None)] if norm == "batch" else [slice(i, i + 1) for i in range(len(X))]:
            want, count = rk45(velocity(objective, rows, SCALE[rows]), ends, start[rows], tolerance)
            assert np.all(made[rows] == count)
            assert np.abs(x[rows] - want).max() < 1e-10 * np.abs(want).max()


def dopri5(rate: Any, ends: tuple[float, float], x: np.ndarray, tolerance: float) -> tuple[np.ndarray, int]:
    """torchdiffeq's dopri5: it steps beyond the end, and interpolates by a polynomial of order 4."""
    places = [1 / 5, 3 / 10, 4 / 5, 8 / 9, 1, 1]
    rows = [
        [1 / 5],
        [3 / 40, 9 / 40],
        [44 / 45, -56 / 15, 32 / 9],
        [19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729],
        [9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656],
        [35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84],
    ]
    fourth = [1951 / 21600, 0, 22642 / 50085, 451 / 720, -12231 / 42400, 649 / 6300, 1 / 60]
    middle = [6025192743 / 30085553152, 0, 51252292925 / 65400821598, -2691868925 / 45128329728]
    middle += [187940372067 / 1594534317056, -1776094331 / 19743644256, 11237099 / 235043384]

    def norm(v: np.ndarray) -> float:
        return float(np.sqrt(np.mean(v * v)))

    def total(weights: list[float], slopes: list[np.ndarray]) -> Any:
        return sum(w * k for w, k in zip(weights, slopes, strict=True))

    (t, end), way, count = ends, np.sign(ends[1] - ends[0]), 2
    scale, f = tolerance * (1 + np.abs(x)), rate(t, x)
    d0, d1 = norm(x / scale), norm(f / scale)
    probe = 1e-6 if min(d0, d1) < 1e-5 else 0.01 * d0 / d1
    d2 = norm((rate(t + way * probe, x + way * probe * f) - f) / scale) / probe
    h = min(100 * probe, (0.01 / max(d1, d2)) ** 0.2)
    while True:
        slopes = [f]
        for place, row in zip(places, rows, strict=True):
            y = x + way * h * total(row, slopes)
            slopes.append(rate(t + way * place * h, y))
        count += 6
        error = h * total([a - b for a, b in zip([*rows[-1], 0], fourth, strict=True)], slopes)
        ratio = norm(error / (tolerance * (1 + np.maximum(np.abs(x), np.abs(y)))))
        size, h = h, h * min(10, max(0.9 / ratio**0.2, 1 if ratio < 1 else 0.2))
        if ratio > 1:
            continue
        after = t + way * size
        if way * (after - end) >= 0:
            break
        t, x, f = after, y, slopes[-1]
    s, d = (end - t) / (after - t), way * size
    half = x + d * total([w / 2 for w in middle], slopes)
    start, stop = d * slopes[0], d * slopes[-1]
    return (
        x
        + s * start
        + s**2 * (stop - 4 * start - 11 * x - 5 * y + 16 * half)
        + s**3 * (5 * start - 3 * stop + 18 * x + 14 * y - 32 * half)
        + s**4 * (2 * (stop - start) - 8 * (x + y) + 16 * half)
    ), count


@pytest.mark.parametrize("objective", ["linear velocity", "gvp score", "ve sde"])
def test_it_is_torchdiffeqs(objective: str) -> None:
    for tolerance in (1e-3, 1e-5):
        values = {"rtol": tolerance, "atol": tolerance, "norm": "batch", "rules": "torchdiffeq"}
        sampler, module, programs = built(objective, **values, guidance={"scale": 2.0})
        x, made = Interpreter(module, WEIGHTS).run(programs[0].entry, X, Y, SCALE)
        want, count = dopri5(velocity(objective, slice(None), SCALE), *started(sampler, objective), tolerance)
        assert np.all(made == count)
        assert np.abs(x - want).max() < 1e-10 * np.abs(want).max()


def test_a_schedule_of_guidance_is_interpolated() -> None:
    guidance = {"scale": 2.0, "interval": [0.2, 0.7], "schedule": "linear"}
    sampler, module, programs = built("vp noise", norm="batch", guidance=guidance)
    x, made = Interpreter(module, WEIGHTS).run(programs[0].entry, X, Y, SCALE)
    grid = np.linspace(0, 1, 1001)
    weights = sampler.guidance.weights(list(map(float, grid)))
    rate = velocity("vp noise", slice(None), lambda t: 1 + (SCALE - 1) * np.interp(t, grid, weights))
    ends, start = started(sampler, "vp noise")
    found = solve_ivp(lambda t, v: rate(t, v.reshape(X.shape)).ravel(), ends, start.ravel(), rtol=1e-3, atol=1e-6)
    assert np.all(made == found.nfev)
    assert np.abs(x.ravel() - found.y[:, -1]).max() < 1e-10


def test_the_likelihood_is_integrated_beside_the_state() -> None:
    """Song et al. 2021: one vector of the state and of the log-densities."""
    tolerances = {"rtol": 1e-5, "atol": 1e-5, "norm": "batch"}
    sampler, module, programs = built("vp sde", **tolerances, likelihood={"dequantise": False})
    x, z = RNG.uniform(-1, 1, X.shape), RNG.standard_normal(X.shape)
    inputs = {"x": x, "y": Y, "probe": z}
    program, target = programs[1], OBJECTIVES["vp sde"].parameterization()
    log_p, _, latent, made = Interpreter(module, WEIGHTS).run(program.entry, *(inputs[n] for n in program.sources))
    signs = np.where(z > 0, 1.0, -1.0)

    def rate(t: float, v: np.ndarray) -> np.ndarray:
        state = v[: x.size].reshape(x.shape)
        a, b = conversion(target.predicts, "flow_velocity", target.process.point(t))
        out = forward(state, float(target.process.point(t).time), Y, SHAPE[0])
        divergence = (signs**2 * (a + b * (1 - out**2))).sum(axis=(1, 2, 3))
        return np.concatenate([(a * state + b * out).ravel(), divergence])

    ends = sampler.interval(target)
    v = np.concatenate([x.ravel(), np.zeros(len(x))])
    found = solve_ivp(rate, (ends.stop, ends.start), v, rtol=1e-5, atol=1e-5)
    end, change = found.y[: x.size, -1].reshape(x.shape), found.y[x.size :, -1]
    deviation = target.process.prior_scale(1.0)
    of_prior = -0.5 * (end / deviation) ** 2 - 0.5 * math.log(2 * math.pi) - math.log(deviation)
    assert np.all(made == found.nfev)
    assert np.abs(latent - end).max() < 1e-9
    assert np.abs(log_p - of_prior.sum(axis=(1, 2, 3)) - change).max() < 1e-9


def test_steps_after_the_end_change_nothing() -> None:
    """So that a sample does not depend on how many steps the others of its batch take."""
    _, module, programs = built("gvp score", rtol=1e-2, atol=1e-2, max_steps=30, guidance={"scale": 2.0})
    x, made = Interpreter(module, WEIGHTS).run(programs[0].entry, X, Y, SCALE)
    assert len(set(made)) > 1
    idle = Interpreter(without_early_ends(module), WEIGHTS).run(programs[0].entry, X, Y, SCALE)
    for got, want in zip(idle, (x, made), strict=True):
        np.testing.assert_array_equal(got, want)


def test_a_sample_that_does_not_arrive_is_no_number() -> None:
    """The others are whole."""
    _, module, programs = built("gvp score", rtol=1e-2, atol=1e-2, guidance={"scale": 2.0})
    x, made = Interpreter(module, WEIGHTS).run(programs[0].entry, X, Y, SCALE)
    most = int(np.sort(made)[1] - 2) // 6  # tries of the second
    _, module, programs = built("gvp score", rtol=1e-2, atol=1e-2, max_steps=most, guidance={"scale": 2.0})
    short, count = Interpreter(module, WEIGHTS).run(programs[0].entry, X, Y, SCALE)
    late = made > 2 + 6 * most
    assert late.any() and np.isnan(short[late]).all() and np.all(count[late] == 2 + 6 * most)
    np.testing.assert_array_equal(short[~late], x[~late])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["objective={kind: diffusion, process: {kind: discrete}}"], "needs a process in continuous time"),
        (
            ["objective={kind: diffusion, process: {kind: vp}}", "sampler.rules=torchdiffeq"],
            "beyond the last time, where `vp` has no velocity",
        ),
        (["sampler.guidance={kind: blur, scale: 1}"], "depends on more than the prediction at one state"),
    ],
)
def test_what_it_refuses(overrides: list[str], message: str) -> None:
    with pytest.raises(DiagnosticError, match=message):
        load_spec("digits_sit", overrides=["sampler={kind: dopri5}", *overrides])


def test_it_is_not_written_out(tmp_path: Any) -> None:
    tiny = ["backbone.width=16", "backbone.depth=1", "backbone.block.mixer.heads=2", "sampler={kind: dopri5}"]
    made = load_spec("digits_sit", overrides=tiny)
    with pytest.raises(DiagnosticError, match="unrolled, it would always run all 100 steps"):
        bundle_from_lowered(lower(made), made, {}, tmp_path / "b", spec_text="", form="unroll")
