"""JiT beyond what was recorded: its clamp near the data, other scales of noise, refusals."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from latentc.components.processes.process import Parameterization
from latentc.components.samplers.heun import Heun
from latentc.components.samplers.table import run
from latentc.diagnostics import DiagnosticError
from latentc.lower import lower
from latentc.spec import load_spec
from latentc.systems.jit.clamped_path import ClampedPath

TINY = ["backbone.width=16", "backbone.depth=2", "backbone.context_start=1", "backbone.block.mixer.heads=2"]


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_velocities_near_the_data_are_divided_by_the_least_divisor(scale: float) -> None:
    """40 steps reach times at which 1 - t is less than 0.05."""
    process = ClampedPath(kind="clamped_path", noise_scale=scale)
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((2, 3))
    grid, seen = np.linspace(0, 1, 41), []

    def network(x: np.ndarray, t: float) -> np.ndarray:
        seen.append(float(t))
        return np.tanh(x + t)

    def velocity(x: np.ndarray, t: float) -> np.ndarray:
        return (np.tanh(x + t) - x) / max(1 - t, 0.05)

    x = scale * noise
    for i, (t, s) in enumerate(itertools.pairwise(grid)):
        d = velocity(x, t)
        e = d if i == 39 else velocity(x + (s - t) * d, s)
        x = x + (s - t) * (d + e) / 2
    sampler = Heun(kind="heun", steps=40, last="euler", eps=0.0)
    found = run(sampler.table(Parameterization(process, "preconditioned")), network, noise)
    assert np.abs(found - x).max() < 1e-12
    assert max(seen) == pytest.approx(0.975)


def test_a_clamped_prediction_is_what_its_functional_says() -> None:
    process = ClampedPath(kind="clamped_path", noise_scale=2.0)
    point = process.point(np.array([0.1, 0.9, 0.97, 0.999]))
    (skip, out), (u, w) = point.denoiser, point.preconditioned
    data, noise = 0.3, -1.7
    x = point.alpha * data + point.sigma * noise
    assert np.allclose(skip * x + out * (u * data + w * noise), data, atol=1e-12)
    assert np.allclose(skip[:2], 0, atol=1e-15) and np.all(skip[2:] > 0.1)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["backbone.context_start=2"], "block 2 is out of range: there are blocks 0 to 1"),
        (["backbone.patch=3"], "patches of 3 do not tile a side of 8"),
        (["conditioning.class=null", "sampler.guidance=null"], "class tokens are copies of the embedded conditions"),
        (["backbone.block.mixer={kind: depthwise_conv, kernel: 3}"], "needs one"),
        (["objective.process={kind: interpolant}"], "`clean_flow` needs the process `clamped_path`"),
    ],
)
def test_refusals(overrides: list[str], said: str) -> None:
    with pytest.raises(DiagnosticError) as caught:
        load_spec("digits_jit", None, [*TINY, *overrides])
    assert any(said in one.message for one in caught.value.diagnostics), caught.value


def test_without_class_tokens_there_are_no_positions_for_them() -> None:
    low = lower(
        load_spec("digits_jit", None, [*TINY, "backbone.context=0", "conditioning.class=null", "sampler.guidance=null"])
    )
    assert "in_context_posemb" not in {param.name for fn in low.module.functions.values() for param in fn.params}
