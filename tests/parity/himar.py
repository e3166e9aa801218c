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
WHOLE = (
    "data.shape=[4, 16, 16]",
    "data.fields={}",
    "objective.pivots=null",
    "networks.main.width=32",
    "networks.main.depth=1",
    "networks.main.side=8",
    "networks.main.buffer=4",
    "networks.main.block.mixer.heads=2",
    "networks.main.block.norm.eps=1e-5",
    "networks.pivot_head.width=32",
    "networks.pivot_head.depth=1",
    "networks.head.width=32",
    "networks.head.depth=1",
    "networks.head.block.mixer.heads=2",
    "sampler.pivots.diffusion.respacing='3'",
    "sampler.pivots.guidance.scale=2",
    "sampler.guidance.scale=2",
    "sampler.steps=2",
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
    orders = numbers.noise
    pivot_order, order = np.stack(orders[0:4:2]), np.stack(orders[1:4:2]) - 64
    x, noise, i = np.zeros((2, 64, 4), np.float32), np.zeros((2, 3, 64, 4), np.float32), 4
    for before, after in itertools.pairwise(spec.sampler.pivots.hidden_counts(64)):
        places, count = np.arange(after, before), before - after
        by_position = np.argsort(np.argsort(pivot_order[:, after:before], axis=1), axis=1)
        for target, both in ((x, 1), *((noise[:, k], 2) for k in range(3))):
            values = drawn(i, both * 2 * count, 4)[: 2 * count].reshape(2, count, 4)
            target[:, places] = np.take_along_axis(values, by_position[..., None], 1)
            i += 1
    dense, steps = [], []
    for _ in range(2):
        dense.append(tokens(drawn(i, 2, 4, 16, 16)))
        steps += [tokens(drawn(i + 1 + 2 * k + USED, 4, 4, 16, 16)[:2]) for k in range(250)]
        i += 501
    assert i == 1134
    scale = np.full(2, 2, np.float32)
    return {
        "y": numbers.inputs["labels"],
        "pivot_scale": scale,
        "scale": scale,
        "pivot_order": pivot_order,
        "pivot_x": x,
        "pivot_noise": noise,
        "order": order,
        "x": np.stack(dense, axis=1),
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
]
