"""Hi-MAR (Zheng et al. 2025): features of both phases, and the whole sampler."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from cases import Array, Forward, Sampler
from parity_data import Numbers

TRUNK = (
    "data.classes=10",
    "data.shape=[4, 4, 4]",
    "data.fields={}",
    "objective.pivots=null",
    "networks.main.width=64",
    "networks.main.depth=2",
    "networks.main.side=2",
    "networks.main.buffer=4",
    "networks.main.block.mixer.heads=4",
    "networks.main.block.norm.eps=1e-5",  # of the bare class, not of the published models
    "networks.pivot_head.width=64",
    "networks.pivot_head.depth=2",
    "networks.head.width=64",
    "networks.head.depth=2",
    "networks.head.block.mixer.heads=4",
)
BLOCK = (
    "data.fields={}",
    "objective.pivots=null",
    "networks.main.width=32",
    "networks.main.depth=1",
    "networks.main.buffer=4",
    "networks.main.block.mixer.heads=2",
    "networks.pivot_head.width=32",
    "networks.pivot_head.depth=1",
    "networks.head.width=32",
    "networks.head.depth=1",
    "networks.head.block.mixer.heads=2",
)
WHOLE = (
    *BLOCK,
    "data.shape=[4, 16, 16]",
    "networks.main.side=8",
    "networks.main.block.norm.eps=1e-5",
    "sampler.pivots.diffusion.respacing='3'",
    "sampler.pivots.guidance.scale=2",
    "sampler.guidance.scale=2",
    "sampler.steps=2",
)
# Its diffusions start at half of their noise: values stay near 1, so that the noise of known tokens shows.
KNOWN = (
    *BLOCK,
    "data.shape=[4, 4, 4]",
    "data.classes=10",
    "networks.main.side=4",
    "sampler.pivots.steps=16",
    "sampler.pivots.diffusion={kind: ddpm, timesteps: [666, 334, 333, 0]}",
    "sampler.pivots.guidance.scale=1.5",
    "sampler.pivots.temperature=0.9",
    "sampler.diffusion={kind: ddpm, timesteps: [499, 250, 249, 124, 0], variance: fixed_large}",
    "sampler.guidance.scale=2",
    "sampler.temperature=0.9",
    "sampler.steps=3",
)
EVERY = {"main": "", "pivot_head": "", "head": ""}


def tokens(images: Array) -> Array:
    return images.reshape(*images.shape[:2], -1).transpose(0, 2, 1)


def first(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    given = numbers.inputs
    return {"x": tokens(given["cond"]), "mask": given["mask"][:, :4], "y": given["labels"]}


def second(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    given = numbers.inputs
    return {
        "x": tokens(given["imgs"]),
        "mask": given["big"][:, 4:],
        "left_out": np.zeros((2, 4), np.float32),
        "pivots": numbers.outputs["out.dec1"][:, :4],
        "y": given["labels"],
    }


def drawn(i: int, *shape: int) -> Array:
    """The i-th draw, which follows from its number."""
    bits = np.random.Generator(np.random.Philox(key=zlib.crc32(f"noise:{i:04d}".encode())))
    return bits.standard_normal(shape, dtype=np.float32)


def sampler(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    """Draws of a set of pivots are in order of position; the two branches of guidance share them."""
    orders, pivots, dense = numbers.noise, spec.sampler.pivots, spec.sampler
    count, kicks, shape = spec.networks["main"].side ** 2, pivots.diffusion.steps, spec.data.shape
    pivot_order, order = np.stack(orders[0:4:2]), np.stack(orders[1:4:2]) - count
    x, noise, i = np.zeros((2, count, 4), np.float32), np.zeros((2, kicks, count, 4), np.float32), len(orders)
    for before, after in itertools.pairwise(pivots.hidden_counts(count)):
        places, some = np.arange(after, before), before - after
        by_position = np.argsort(np.argsort(pivot_order[:, after:before], axis=1), axis=1)
        for target, both in ((x, 1), *((noise[:, k], 2) for k in range(kicks))):
            values = drawn(i, both * 2 * some, 4)[: 2 * some].reshape(2, some, 4)
            target[:, places] = np.take_along_axis(values, by_position[..., None], 1)
            i += 1
    starts, steps = [], []
    for _ in range(dense.steps):
        starts.append(tokens(drawn(i, 2, *shape)))
        steps += [tokens(drawn(i + 1 + 2 * k + USED, 4, *shape)[:2]) for k in range(dense.diffusion.steps)]
        i += 1 + 2 * dense.diffusion.steps
    return {
        "y": numbers.inputs["labels"],
        "pivot_scale": np.full(2, pivots.guidance.scale, np.float32),
        "scale": np.full(2, dense.guidance.scale, np.float32),
        "pivot_order": pivot_order,
        "pivot_x": x,
        "pivot_noise": noise,
        "order": order,
        "x": np.stack(starts, axis=1),
        "noise": np.stack(steps, axis=1),
    }


USED = 1  # of two draws in each step of the diffusion of dense tokens, the second is used

CASES = [
    Forward("himar.stages", "himar", TRUNK, first, wanted=lambda n: n.outputs["out.dec1"], method="pivots"),
    Forward("himar.stages", "himar", TRUNK, second, wanted=lambda n: n.outputs["out.dec2"]),
    Sampler(
        "himar.sampler_sample_tokens",
        "himar",
        WHOLE,
        sampler,
        wanted=lambda n: n.outputs["out.1"],
        prefixes=EVERY,
    ),
    Sampler(
        "himar.sampler_known_tokens",
        "himar",
        KNOWN,
        sampler,
        wanted=lambda n: n.outputs["out.1"],
        prefixes=EVERY,
    ),
]
