"""MAR (Li et al. 2024): trunk, diffusion head, loss and sampler; ReCAP (Liu et al. 2025), which samples with reuse."""

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
    """The authors draw noise for the tokens of a set, in order of position; here it is by place in the random order.

    In a set of several steps it is by place in the set, in order of position, in both.
    """
    order, draws = np.stack(numbers.noise[:2]), iter(numbers.noise[2:])
    x, noise = np.zeros((2, 16, 4), np.float32), np.zeros((2, 5, 16, 4), np.float32)
    left, reuse = spec.sampler.hidden_counts(16), getattr(spec.sampler, "reuse", None)
    for first, stop in reuse.sets(left, 16) if reuse else itertools.pairwise(range(len(left))):
        for i in range(first, stop):
            count, last = left[i] - left[i + 1], left[stop]
            places = last + left[first] - left[i] + np.arange(count)
            by_position = np.argsort(np.argsort(order[:, last : left[first]], axis=1), axis=1)
            by_position = by_position if stop == first + 1 else np.tile(np.arange(count), (2, 1))
            for target in (x, *(noise[:, k] for k in range(2 if i > first else 5))):
                drawn = next(draws)[: 2 * count].reshape(2, count, 4)
                target[:, places] = np.take_along_axis(drawn, by_position[..., None], 1)
    assert next(draws, None) is None
    scale = np.full(2, 2, np.float32)
    return {"y": numbers.inputs["labels"], "scale": scale, "order": order, "x": x, "noise": noise}


REUSING = (
    *SIZES[:-1],
    "sampler={kind: recap_autoregressive, steps: 6, diffusion: {kind: ddpm, respacing: '5'}, "
    "guidance: {scale: 2, schedule: linear}, reuse: {after: 1, diffusion: {kind: ddpm, respacing: '2'}}}",
)


def known(caches: list[Array], numbers: Numbers) -> list[Array]:
    """The encoder's keys and values of the tokens that are not hidden, those of the condition first."""
    hidden = np.concatenate([np.zeros((2, 4)), numbers.inputs["mask"]], axis=1)
    places = np.argsort(hidden, axis=1, kind="stable")[:, None, :14, None]
    return [np.take_along_axis(cache, places, axis=2) for cache in caches]


def remembered(out: Any, numbers: Numbers, spec: Any) -> Array:
    features, *caches = out.values()
    return np.concatenate([a.ravel() for a in (features, *known(caches[:4], numbers))])


def recorded(numbers: Numbers) -> Array:
    names = ("dec", "enc.1.0.0", "enc.1.0.1", "enc.1.1.0", "enc.1.1.1")
    return np.concatenate([numbers.outputs[f"out.{name}"].ravel() for name in names])


CASES = [
    Forward("mar.enc_dec", "mar", SIZES, trunk, wanted=lambda numbers: numbers.outputs["out.dec"]),
    Forward("mar.diffloss.net", "mar", SIZES, head, network="head", prefixes={"head": ""}),
    Loss("mar.loss", "mar", SIZES, loss, prefixes=BOTH),
    Sampler("mar.sampler_sample_tokens", "mar", SIZES, sampler, prefixes=BOTH),
    Forward(
        "recap.mar_kv",
        "recap",
        REUSING,
        trunk,
        wanted=recorded,
        output=remembered,
        every_output=True,
        method="remember",
    ),
    Sampler("recap.sampler_kv", "recap", REUSING, sampler, prefixes=BOTH),
]
