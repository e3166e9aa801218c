"""RandAR (Pang et al. 2024): logits and loss in random orders, groups decoded at once under growing guidance."""

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
    "backbone.block.mixer.heads=4",
    "backbone.block.feed_forward.multiple_of=32",
    "sampler={kind: instructed_decoding, steps: 7, guidance: {scale: 4, schedule: linear}}",
)


def forward(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    ids, order = numbers.inputs["idx"], numbers.outputs["out.order"]
    return {"idx": np.take_along_axis(ids, order, 1)[:, :-1], "order": order, "y": numbers.inputs["label"]}


def loss(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    ids, keep = numbers.inputs["idx"], np.ones(2, np.float32)
    return {"tokens": ids, "y": numbers.inputs["label"], "drop": keep, "order": numbers.outputs["out.order"]}


def sampler(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    """Uniform variates in the middle of the ranges of the tokens that the authors' code drew."""
    order = np.stack([numbers.noise[i] for i in range(2)])
    drawn = np.take_along_axis(numbers.outputs["out.ids"], order, 1)
    probs = numbers.outputs["out.probs"].astype(np.float64).transpose(1, 0, 2)
    upper = np.take_along_axis(np.cumsum(probs, axis=-1), drawn[..., None], -1)[..., 0]
    u = upper - np.take_along_axis(probs, drawn[..., None], -1)[..., 0] / 2
    scale = np.full(2, 4.0, np.float32)
    return {"y": numbers.inputs["label"], "scale": scale, "order": order, "u": u.astype(np.float32)}


CASES = [
    Forward(
        "randar", "randar", SIZES, forward, wanted=lambda numbers: numbers.outputs["out.logits"], method="permuted"
    ),
    Loss("randar", "randar", SIZES, loss, wanted=lambda numbers: numbers.outputs["out.loss"]),
    Sampler(
        "randar.sampler",
        "randar",
        SIZES,
        sampler,
        wanted=lambda numbers: numbers.outputs["out.ids"],
        tolerance=1e-9,
    ),
]
