"""ARPG (Li et al. 2025): logits and loss in random orders, groups decoded at once under growing guidance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from cases import Array, Forward, Loss, Sampler
from parity_data import Numbers

SIZES = (
    "data.classes=6",
    "data.tokens={vocabulary: 40, grid: [4, 4]}",
    "backbone.width=64",
    "backbone.depth=2",
    "backbone.query_depth=2",
    "backbone.block.mixer.heads=4",
    "backbone.block.feed_forward.multiple_of=32",
    "sampler={kind: randomized_decoding, steps: 6, guidance: {scale: 4, schedule: linear}}",
)


def forward(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    ids, order = numbers.inputs["ids"], np.argsort(numbers.noise[1], axis=1)
    return {"idx": np.take_along_axis(ids, order, 1)[:, :-1], "order": order, "y": numbers.inputs["label"]}


def loss(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    keep, order = np.ones(2, np.float32), np.argsort(numbers.noise[1], axis=1)
    return {"tokens": numbers.inputs["ids"], "y": numbers.inputs["label"], "drop": keep, "order": order}


def sampler(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    """Uniform variates in the middle of the ranges of the tokens that the authors' code drew."""
    order = np.tile(np.argsort(numbers.noise[1]), (2, 1))
    drawn = np.take_along_axis(numbers.outputs["out.ids"], order, 1)
    sizes = [len(tokens) // 2 for tokens in numbers.noise[2:]]
    groups = np.split(numbers.outputs["out.probs"].astype(np.float64), 2 * np.cumsum(sizes)[:-1])
    probs = np.concatenate([group.reshape(2, -1, group.shape[-1]) for group in groups], axis=1)
    upper = np.take_along_axis(np.cumsum(probs, axis=-1), drawn[..., None], -1)[..., 0]
    u = upper - np.take_along_axis(probs, drawn[..., None], -1)[..., 0] / 2
    scale = np.full(2, 4.0, np.float32)
    return {"y": numbers.inputs["label"], "scale": scale, "order": order, "u": u.astype(np.float32)}


CASES = [
    Forward("arpg", "arpg", SIZES, forward, wanted=lambda numbers: numbers.outputs["out.logits"], method="permuted"),
    Loss("arpg", "arpg", SIZES, loss, wanted=lambda numbers: numbers.outputs["out.loss"]),
    Sampler(
        "arpg.sampler",
        "arpg",
        SIZES,
        sampler,
        wanted=lambda numbers: numbers.outputs["out.ids"],
        tolerance=1e-9,
    ),
]
