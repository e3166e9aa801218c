"""LFDM beyond what was recorded: deformations, the frames of a pair, the sampler's steps and its video, refusals."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from random_weights import weights_of
from tiny_systems import SYSTEMS

from latentc.components.processes.discrete import Discrete
from latentc.components.processes.process import Parameterization
from latentc.components.samplers.table import run
from latentc.diagnostics import DiagnosticError
from latentc.ir.builder import ModuleBuilder, f32, i64
from latentc.ir.interpret import Interpreter
from latentc.lower import lower
from latentc.spec import load_spec
from latentc.systems.lfdm.bending import Deformation
from latentc.systems.lfdm.flow_autoencoding import _two_frames
from latentc.systems.lfdm.shifted_ddim import ShiftedDdim

RNG = np.random.default_rng(0)


def evaluated(build: Any, *inputs: np.ndarray) -> list[np.ndarray]:
    """What `build(b, *inputs)` computes in float64."""
    mb = ModuleBuilder()
    b = mb.function("main")
    made = [b.input(f"x{i}", (i64 if a.dtype.kind == "i" else f32)(*a.shape)) for i, a in enumerate(inputs)]
    b.output(build(b, *made))
    b.finish()
    mb.entries["main"] = "main"
    return [np.asarray(x) for x in Interpreter(mb.finish(), float_dtype="f64").run("main", *inputs)]


def test_a_deformation_and_its_derivative_are_those_of_pytorch():
    theta, bends = RNG.standard_normal((2, 2, 3)), RNG.standard_normal((2, 9))
    points = RNG.uniform(-1, 1, (2, 4, 2))

    def build(b: Any, theta: Any, bends: Any, points: Any) -> list[Any]:
        at = b.split(points, axis=2, sizes=(1, 1))
        of = Deformation.drawn(b, theta, bends, (0.1, 0.02), 3)
        return [*of.moved(at), *of.jacobian(at)]

    found = evaluated(build, theta, bends, points)
    along = torch.linspace(-1, 1, 3, dtype=torch.float64)
    controls = torch.stack([along.repeat(3), along.repeat_interleave(3)], dim=1)
    map_ = torch.from_numpy(theta) * 0.1 + torch.eye(2, 3)

    def moved(x: torch.Tensor) -> torch.Tensor:
        d = (x[:, :, None] - controls).abs().sum(3)
        bend = (d**2 * (d + 1e-6).log() * torch.from_numpy(bends)[:, None] * 0.02).sum(2, keepdim=True)
        return x @ map_[:, :, :2].mT + map_[:, None, :, 2] + bend

    x = torch.from_numpy(points).requires_grad_()
    y = moved(x)
    rows = [torch.autograd.grad(y[..., i].sum(), x, retain_graph=True)[0].numpy() for i in range(2)]
    wanted = [*np.split(y.detach().numpy(), 2, axis=2), *(part for row in rows for part in np.split(row, 2, axis=2))]
    for a, b in zip(found, wanted, strict=True):
        assert np.abs(a - b).max() < 1e-6


def test_the_earlier_frame_is_moved_to_the_later_one():
    video, frames = RNG.standard_normal((3, 2, 4, 3, 3)), np.array([[2, 1], [0, 3], [2, 2]])
    source, driving = evaluated(lambda b, x, i: list(_two_frames(b, x, i)), video, frames)
    assert np.array_equal(source, video[range(3), :, [1, 0, 2]])
    assert np.array_equal(driving, video[range(3), :, [2, 3, 2]])


def test_steps_lead_to_the_levels_before_the_timesteps():
    process = Discrete(kind="discrete", schedule="cosine", steps=20, beta_max=0.9999)
    sampler = ShiftedDdim(kind="shifted_ddim", steps=3, eta=0.7, clip=1.0, noise_of_clipped=False)
    x, noise = RNG.standard_normal((1, 2, 3)), RNG.standard_normal((3, 1, 2, 3))
    bar = process.alphas_cumprod
    before = np.append(1.0, bar)
    times, state, seen = [15, 10, 5, 0], x, []
    for i, (t, stop) in enumerate(pairwise(times)):
        eps = np.sin(state) * 0.5
        data = np.clip((state - np.sqrt(1 - bar[t]) * eps) / np.sqrt(bar[t]), -1, 1)
        sigma = 0.7 * np.sqrt((1 - before[t] / before[stop]) * (1 - before[stop]) / (1 - before[t]))
        state = np.sqrt(before[stop]) * data + np.sqrt(1 - before[stop] - sigma**2) * eps + sigma * noise[i]

    def network(x: np.ndarray, t: float) -> np.ndarray:
        seen.append(t)
        return np.sin(x) * 0.5

    found = run(sampler.table(Parameterization(process, "noise", "fixed_small")), network, x, noise)
    assert seen == times[:-1]
    assert np.abs(found - state).max() < 1e-12


def test_the_largest_beta_is_bounded():
    betas = [Discrete(kind="discrete", schedule="cosine", beta_max=most).betas for most in (0.999, 0.9999)]
    assert [b.max() for b in betas] == [0.999, 0.9999]
    assert np.array_equal(betas[0][:-1], betas[1][:-1])


def lowered(*overrides: str) -> tuple[Any, Any]:
    tiny = SYSTEMS["lfdm"]
    spec = load_spec(tiny.spec, tiny.variant, [*tiny.sizes, *overrides])
    return spec, lower(spec)


def test_a_sample_is_the_image_moved_by_what_was_drawn():
    _, low = lowered()
    weights = {name: np.abs(a) if name.endswith("running_var") else a for name, a in weights_of(low, 0.3).items()}
    program = low.programs[0]
    given = {
        value.name: np.array([1, 2]) if value.type.dtype == "i64" else RNG.uniform(-1, 1, sizes(value))
        for value in low.module.entry(program.entry).inputs
    }
    assert {"x", "image", "y", "noise"} <= given.keys()

    def sampled(given: Any) -> np.ndarray:
        return np.asarray(Interpreter(low.module, weights).run(program.entry, *given.values())[0])

    video = sampled(given)
    assert video.shape == (2, 1, 2, 8, 8) and np.abs(video).max() <= 1.0
    other = sampled({**given, "image": given["image"][::-1]})
    assert np.abs(video - other).max() > 1e-3
    assert program.outputs[0].field == "x" and "image" in {one.name for one in low.conditions}


def sizes(value: Any) -> tuple[int, ...]:
    return tuple(int(d) if isinstance(d, int) else 2 for d in value.type.shape)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["data.fields.image=null"], "needs the first frame as field `image`"),
        (["conditioning.features=null"], "no condition of `main` reads field `image`"),
        (["networks.main.factor=3"], "are no multiples of 6"),
        (["networks.main.groups=3"], "3 groups do not divide"),
        (["networks.autoencoder.flow.blocks=4"], "are no multiples of 32"),
        (["sampler.steps=1000"], "1000 steps need a schedule of more"),
    ],
)
def test_refusals(overrides: list[str], said: str):
    with pytest.raises(DiagnosticError) as caught:
        lowered(*overrides)
    assert any(said in one.message for one in caught.value.diagnostics), caught.value
