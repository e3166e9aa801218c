"""PAR (Wang et al. 2024): logits and loss in its reading of a grid, places drawn at once under guidance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from cases import Array, Forward, Loss, Sampler
from parity_data import Numbers

from latentc.systems.par.region_transformer import reading

SIZES = (
    "data.classes=6",
    "data.tokens={vocabulary: 40, grid: [4, 4]}",
    "backbone.width=64",
    "backbone.depth=2",
    "backbone.block.mixer.heads=4",
    "backbone.block.feed_forward.multiple_of=32",
    "sampler.guidance.scale=3",
)
ORDER = np.array(reading(2, 4))


def forward(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    """The authors' training also takes three tokens of the last place, which nothing sees; here they are zeros."""
    return {"idx": np.pad(numbers.inputs["idx"], ((0, 0), (0, 3))), "y": numbers.inputs["label"]}


def loss(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    tokens = numbers.inputs["targets"][:, np.argsort(ORDER)]
    return {"tokens": tokens, "y": numbers.inputs["label"], "drop": np.ones(2, np.float32)}


def sampler(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    """Uniform variates in the middle of the ranges of the tokens that the authors' code drew."""
    probs, drawn = numbers.outputs["out.probs"].astype(np.float64), numbers.outputs["out.ids"]
    first, places = probs[:8].reshape(4, 2, 40), probs[8:].reshape(3, 2, 4, 40)

    def middle(probs: Array, drawn: Array) -> Array:
        upper = np.take_along_axis(np.cumsum(probs, axis=-1), drawn[..., None], -1)[..., 0]
        return (upper - np.take_along_axis(probs, drawn[..., None], -1)[..., 0] / 2).astype(np.float32)

    u_places = middle(places, drawn[:, 4:].reshape(2, 3, 4).transpose(1, 0, 2))
    scale = np.full(2, 3.0, np.float32)
    return {"y": numbers.inputs["label"], "scale": scale, "u": middle(first, drawn[:, :4].T), "u_places": u_places}


CASES = [
    Forward("par", "par", SIZES, forward, wanted=lambda numbers: numbers.outputs["out.logits"]),
    Loss("par", "par", SIZES, loss, wanted=lambda numbers: numbers.outputs["out.loss"]),
    Sampler(
        "par.sampler",
        "par",
        SIZES,
        sampler,
        wanted=lambda numbers: numbers.outputs["out.ids"][:, np.argsort(ORDER)],
        tolerance=1e-9,
    ),
]
