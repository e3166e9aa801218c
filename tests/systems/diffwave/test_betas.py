"""Sampling by a noise schedule of its own, states that are clamped, and the absolute error."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from latentc import api
from latentc.checkpoint import network_params
from latentc.components.processes.discrete import Discrete
from latentc.components.samplers.spacings.spacing import Interval
from latentc.components.samplers.table import LINEAR, run
from latentc.diagnostics import DiagnosticError
from latentc.lower import lower
from latentc.spec import load_spec
from latentc.systems.diffwave.betas import Betas
from latentc.weights import Array, write_safetensors

FAST = [0.0001, 0.001, 0.01, 0.05, 0.2, 0.5]
SIZES = ["data.fields.x.shape=[1, 512]", "data.fields.mel.shape=[8, 2]"]
SIZES += ["backbone.width=8", "backbone.depth=2", "backbone.time_width=16"]


def process(steps: int = 50) -> Discrete:
    return Discrete(kind="discrete", steps=steps, beta_start=1e-4, beta_end=0.05, interpolation="alpha")


def test_times_of_a_schedule_of_its_own() -> None:
    """The published alignment of two schedules: linear in the square root of the product of alphas."""
    trained, bar = process().alphas_cumprod, np.cumprod(1 - np.array(FAST))
    times = []
    for level in bar:
        t = next(t for t in range(49) if trained[t + 1] <= level <= trained[t])
        upper, here, lower_ = np.sqrt([trained[t], level, trained[t + 1]])
        times.append(t + (upper - here) / (upper - lower_))
    grid = Betas(kind="betas", values=tuple(FAST)).grid(process(), 6, Interval(49.0, 0.0, -1.0))
    assert np.allclose(grid.times, [*times[::-1], -1.0], atol=1e-12) and not float(grid.times[0]).is_integer()
    assert np.allclose(grid.alpha[:-1], np.sqrt(bar[::-1]), atol=1e-12)
    assert np.allclose(grid.alpha**2 + grid.sigma**2, 1.0)


def test_ancestral_steps_on_it_are_the_published_ones() -> None:
    rng = np.random.default_rng(0)
    x, noise = rng.standard_normal((2, 1, 16)), rng.standard_normal((6, 2, 1, 16))

    def network(x: np.ndarray, t: float) -> np.ndarray:
        return np.asarray(np.tanh(x + t / 50))

    spec = load_spec("diffwave")
    table = spec.sampler.table(spec.objective.parameterization())  # type: ignore[union-attr]
    beta, bar = np.array(FAST), np.cumprod(1 - np.array(FAST))
    before, state = np.append(1.0, bar[:-1]), x
    times = table.columns["t"][::-1]
    for n in reversed(range(6)):
        epsilon = network(state, times[n])
        state = (state - beta[n] / np.sqrt(1 - bar[n]) * epsilon) / np.sqrt(1 - beta[n])
        if n:
            state = state + np.sqrt((1 - before[n]) / (1 - bar[n]) * beta[n]) * noise[5 - n]
        state = np.clip(state, -1, 1)
    assert np.allclose(run(table, network, x, noise), state, atol=1e-10)
    assert not np.allclose(run(replace(table, body=LINEAR), network, x, noise), state), "nothing was clamped"


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["sampler.spacing.values=[1.0e-5, 0.5]"], "the betas lead to noise level"),
        (["sampler.spacing.values=[0.0001, 0.9]"], "the betas lead to noise level 3"),
        (["sampler.steps=7"], "`spacing` has 6 steps, but `steps` is 7"),
        (["conditioning.time.levels=40"], "the table has 40 rows, but the process has 50 timesteps"),
        (["objective.process.time_offset=2"], "the table has 50 rows, but the process has 52 timesteps"),
        (["data.fields.mel.shape=[80, 60]"], "condition `mel` has shape [80, 60], but a waveform of 15872 samples"),
        (["objective.variance=learned_range"], "cannot predict a variance"),
        (["data.fields.x.shape=[15872]"], "a diffwave takes waveforms [channels, time]"),
    ],
)
def test_what_does_not_fit_is_said_before_anything_runs(overrides: list[str], said: str) -> None:
    with pytest.raises(DiagnosticError) as error:
        load_spec("diffwave", None, overrides)
    assert said in str(error.value), error.value


@pytest.mark.parametrize("name", ["sit", "edm", "nvg"])  # a flow, a level of noise, a time between two canvases
def test_the_table_needs_whole_timesteps(name: str) -> None:
    with pytest.raises(DiagnosticError, match="needs a process with integer timesteps"):
        load_spec(name, None, ["conditioning.time={kind: step_table, levels: 50}"])


def test_other_step_counts_leave_the_schedule() -> None:
    sampler = load_spec("diffwave").sampler
    assert sampler.steps == 6 and sampler.with_steps(6) is sampler  # type: ignore[union-attr]
    assert sampler.with_steps(10).spacing is None  # type: ignore[union-attr]


@pytest.mark.parametrize("backend", ["oracle", "torch"])
def test_the_loss_is_the_mean_absolute_error_of_the_noise(backend: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    lowered = lower(load_spec("diffwave", None, SIZES))
    params = network_params(lowered, lowered.networks["main"])
    own = {n: rng.standard_normal([int(d) for d in p.type.shape]) * 0.3 for n, p in params.items()}
    file = tmp_path / "w.safetensors"
    write_safetensors(file, {n: Array(a.astype(np.float32)) for n, a in own.items()})
    x, mel = rng.uniform(-1, 1, (2, 1, 512)), rng.uniform(0, 1, (2, 8, 2))
    t, noise = np.array([3, 40]), rng.standard_normal((2, 1, 512))
    bar = process().alphas_cumprod[t][:, None, None]
    given = {"x": np.sqrt(bar) * x + np.sqrt(1 - bar) * noise, "t": t.astype(np.float32), "mel": mel}
    predicted = api.forward("diffwave", file, given, overrides=SIZES)
    batch = {"x": x, "mel": mel, "t": t, "noise": noise}
    found = api.loss("diffwave", file, batch, backend, overrides=SIZES)["loss"]  # type: ignore[arg-type]
    assert np.isclose(found, np.abs(noise - predicted).mean(), rtol=1e-5)
    for wrong in ({"x": x, "t": t, "noise": noise}, {**batch, "mel": mel[:, :, :1]}):
        with pytest.raises(DiagnosticError) as error:
            api.loss("diffwave", file, wrong, backend, overrides=SIZES)  # type: ignore[arg-type]
        assert error.value.diagnostics[0].code == "E0702" and "`mel`" in str(error.value)
