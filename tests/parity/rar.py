"""RAR (Yu et al. 2024): logits and loss in random orders, the sampler in raster order under growing guidance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from cases import Array, Forward, Loss, Sampler
from parity_data import Numbers

SIZES = (
    "data.classes=6",
    "data.tokens={vocabulary: 48, grid: [4, 4]}",
    "backbone.width=64",
    "backbone.depth=2",
    "backbone.block.mixer.heads=4",
    "backbone.block.feed_forward.ratio=2",
)


def forward(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    ids, orders = numbers.inputs["ids"], numbers.inputs["orders"]
    return {
        "idx": np.take_along_axis(ids, orders, 1)[:, :-1],
        "order": orders,
        "y": numbers.inputs["label"],
    }


def logits(numbers: Numbers) -> Array:
    """Without those after the last token, which the authors drop from the loss."""
    return numbers.outputs["out.logits"][:, :-1]


def loss(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    return {
        "tokens": numbers.inputs["ids"],
        "y": numbers.inputs["label"],
        "drop": np.ones(2, np.float32),
        "permutation": numbers.inputs["orders"],
        "u": np.zeros(2, np.float32),
        "training_step": np.int64(0),
    }


def sampler(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    """Uniform variates in the middle of the ranges of the tokens that the authors' code drew."""
    probs, drawn = numbers.outputs["out.probs"].astype(np.float64), numbers.outputs["out.ids"].T
    upper = np.take_along_axis(np.cumsum(probs, axis=-1), drawn[..., None], -1)[..., 0]
    u = upper - np.take_along_axis(probs, drawn[..., None], -1)[..., 0] / 2
    return {"y": numbers.inputs["label"], "scale": np.full(2, 4.0, np.float32), "u": u.astype(np.float32)}


CASES = [
    Forward("rar", "rar", SIZES, forward, wanted=logits, method="permuted"),
    Loss("rar", "rar", SIZES, loss, wanted=lambda numbers: numbers.outputs["out.loss"]),
    Sampler(
        "rar.sampler",
        "rar",
        (*SIZES, "sampler.temperature=1.02", "sampler.guidance.scale=4"),
        sampler,
        wanted=lambda numbers: numbers.outputs["out.ids"],
        tolerance=1e-9,
    ),
]
