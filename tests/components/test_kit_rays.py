"""Rays: cameras, compositing, where further points lie, and how far rays go through a cube."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from latentc.components.kit import rays
from latentc.ir.builder import ModuleBuilder, f32
from latentc.ir.interpret import Interpreter

RNG = np.random.default_rng(0)


def evaluated(build: Any, *inputs: np.ndarray) -> list[np.ndarray]:
    """The outputs of `build(b, *inputs)` in float64."""
    mb = ModuleBuilder()
    b = mb.function("main")
    b.output(*build(b, *(b.input(f"x{i}", f32(*a.shape)) for i, a in enumerate(inputs))))
    b.finish()
    mb.entries["main"] = "main"
    return [np.asarray(x) for x in Interpreter(mb.finish(), float_dtype="f64").run("main", *inputs)]


def test_a_camera_looks_at_the_origin() -> None:
    pitch, yaw = RNG.uniform(0.3, 2.8, (5, 1)), RNG.uniform(-4, 4, (5, 1))
    rotation, origin = evaluated(rays.orbit, pitch, yaw)
    place = np.concatenate([np.sin(pitch) * np.cos(yaw), np.cos(pitch), np.sin(pitch) * np.sin(yaw)], axis=1)
    assert np.allclose(origin[:, 0], place, rtol=0, atol=1e-7)
    assert np.allclose(rotation @ rotation.mT, np.eye(3), rtol=0, atol=1e-7) and np.allclose(np.linalg.det(rotation), 1)
    assert np.allclose(np.array([0, 0, -1]) @ rotation, -place, rtol=0, atol=1e-7)  # the middle of the image
    assert (rotation[:, 1, 1] > 0).all() and np.allclose(rotation[:, 0, 1], 0)  # upright


def test_the_outermost_pixels_are_on_the_edges_of_the_field_of_view() -> None:
    directions = rays.pinhole(3, 90.0)
    assert np.allclose(directions[4], [0, 0, -1])
    assert np.allclose(directions[5] / directions[5, 0], [1, 0, -1])  # the last column, in the middle row
    assert np.allclose(directions[1] / directions[1, 1], [0, 1, -1])  # the first row, in the middle column


def test_compositing_is_a_product_of_what_passes() -> None:
    """By PyTorch, with the last interval as long as the authors of pi-GAN make it; some points are empty."""
    density, depths = np.maximum(RNG.standard_normal((2, 5, 6)), 0) * 4, np.sort(RNG.uniform(0, 2, (2, 5, 6)), axis=2)
    (found,) = evaluated(lambda b, *x: [rays.visible(b, *x)], density, depths)
    lengths = torch.tensor(np.concatenate([np.diff(depths), np.full((2, 5, 1), 1e10)], axis=2))
    alpha = 1 - torch.exp(-torch.tensor(density) * lengths)
    passing = torch.cumprod(torch.cat([torch.ones(2, 5, 1), 1 - alpha + 1e-10], dim=2), dim=2)[:, :, :-1]
    assert np.abs(found - (alpha * passing).numpy()).max() < 1e-7
    assert (found[density == 0] == 0).all() and found.max() > 0.5


def test_further_points_invert_the_distribution_along_the_ray() -> None:
    weights, depths = RNG.uniform(0, 1, (2, 3, 6)), np.sort(RNG.uniform(0, 2, (2, 3, 6)), axis=2)
    places = RNG.uniform(0, 1, (2, 3, 50))
    (found,) = evaluated(lambda b, *x: [rays.further_depths(b, *x)], weights, depths, places)
    middles = (depths[..., 1:] + depths[..., :-1]) / 2
    p = weights[..., 1:-1] + 2e-5
    reached = np.concatenate([np.zeros((2, 3, 1)), np.cumsum(p / p.sum(-1, keepdims=True), axis=-1)], axis=-1)
    wanted = [[np.interp(places[i, j], reached[i, j], middles[i, j]) for j in range(3)] for i in range(2)]
    assert np.abs(found - wanted).max() < 1e-6


def test_rays_through_a_cube() -> None:
    """Against points along each ray, of which those inside are counted; some rays miss it."""
    origin = RNG.uniform(2, 3, (1, 40, 3)) * RNG.choice([-1, 1], (1, 40, 3))
    towards = RNG.uniform(-1.3, 1.3, (1, 40, 3)) - origin
    towards /= np.linalg.norm(towards, axis=-1, keepdims=True)
    near, length = evaluated(rays.through_cube, origin, towards)
    at = np.linspace(0, 10, 40001)
    inside = (np.abs(origin[..., None, :] + at[:, None] * towards[..., None, :]) <= 1).all(-1)
    assert np.abs(length[..., 0] - inside.sum(-1) * at[1]).max() < 1e-3
    hit = inside.any(-1)
    assert 5 < hit.sum() < 40 and np.abs(near[..., 0][hit] - at[inside.argmax(-1)[hit]]).max() < 1e-3


def test_a_ray_along_an_axis_crosses_the_cube() -> None:
    origin, towards = np.array([[[0.5, -0.5, 4.0]]]), np.array([[[0.0, 0.0, -1.0]]])
    near, length = evaluated(rays.through_cube, origin, towards)
    assert np.allclose([near.item(), length.item()], [3, 2])
