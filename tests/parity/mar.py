"""MAR (Li et al. 2024): trunk, diffusion head, loss and sampler."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
from cases import Array, Forward, Loss, Sampler
from parity_data import Numbers

SIZES = (
    "data.classes=10",
    "data.shape=[4, 4, 4]",
    "networks.main.width=64",
    "networks.main.depth=2",
    "networks.main.buffer=4",
    "networks.main.block.mixer.heads=4",
    "networks.main.block.norm.eps=1e-5",  # of the bare class, not of the published models
    "networks.head.width=64",
    "networks.head.depth=2",
    "objective.repeats=1",
    "sampler={kind: masked_autoregressive, steps: 4, diffusion: {kind: ddpm, respacing: '5'}, "
    "guidance: {scale: 2, schedule: linear}}",
)
BOTH = {"main": "", "head": ""}  # both networks in one official file
KEPT = np.ones(2, np.float32)  # no label is dropped


def tokens(images: Array) -> Array:
    return images.reshape(*images.shape[:2], -1).transpose(0, 2, 1)


def trunk(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    given = numbers.inputs
    return {"x": tokens(given["imgs"]), "mask": given["mask"], "y": given["labels"]}


def head(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    return {"x": numbers.inputs["x"], "t": numbers.inputs["t"], "z": numbers.inputs["c"]}


def loss(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    *orders, t, noise = numbers.noise
    fraction = (1 - numbers.inputs["mask_rate"]) / 0.25
    return {
        "x": numbers.inputs["imgs"],
        "y": numbers.inputs["labels"],
        "fraction": np.repeat(fraction, 2).astype(np.float32),
        "order": np.stack(orders),
        "t": t.reshape(2, 1, 16),
        "noise": noise.reshape(2, 1, 16, 4),
        "drop": KEPT,
    }


def sampler(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    """The authors draw noise for the tokens of a set, in order of position; here it is by place in the random order."""
    order, draws = np.stack(numbers.noise[:2]), iter(numbers.noise[2:])
    x, noise = np.zeros((2, 16, 4), np.float32), np.zeros((2, 5, 16, 4), np.float32)
    left = spec.sampler.hidden_counts(16)
    for before, after in itertools.pairwise(left):
        places = np.arange(after, before)
        by_position = np.argsort(np.argsort(order[:, after:before], axis=1), axis=1)
        for target in (x, *(noise[:, k] for k in range(5))):
            drawn = next(draws)[: 2 * len(places)].reshape(2, len(places), 4)
            target[:, places] = np.take_along_axis(drawn, by_position[..., None], 1)
    assert next(draws, None) is None
    scale = np.full(2, 2, np.float32)
    return {"y": numbers.inputs["labels"], "scale": scale, "order": order, "x": x, "noise": noise}


CASES = [
    Forward("mar.enc_dec", "mar", SIZES, trunk, wanted=lambda numbers: numbers.outputs["out.dec"]),
    Forward("mar.diffloss.net", "mar", SIZES, head, network="head", prefixes={"head": ""}),
    Loss("mar.loss", "mar", SIZES, loss, prefixes=BOTH),
    Sampler("mar.sampler_sample_tokens", "mar", SIZES, sampler, prefixes=BOTH),
]
