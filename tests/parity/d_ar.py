"""D-AR (Gao and Shou 2025): codes of images, images of codes, the flow's and the codebook's losses; logits and loss of
the autoregressive model, and codes drawn from it under growing guidance.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from cases import Array, Forward, Loss, Sampler
from parity_data import Numbers

SIZES = ("data.shape=[3, 64, 64]", "backbone.width=64", "backbone.depth=1", "backbone.condition_depth=1")
SIZES += ("backbone.pixel_depth=2", "backbone.pixel_patch=4", "backbone.queries=8", "backbone.group=2")
SIZES += ("backbone.codebook=32", "backbone.channels=6", "backbone.block.mixer.heads=1", "sampler.steps=4")

MODEL = (
    "data.classes=10",
    "data.tokens={vocabulary: 64, grid: [16]}",
    "backbone.width=64",
    "backbone.depth=2",
    "backbone.block.mixer.heads=4",
    "backbone.block.feed_forward.multiple_of=32",
)


def encode(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    return {"x": numbers.inputs["x"]}


def decode(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    return {"codes": numbers.inputs["codes"], "noise": numbers.noise[0]}


def loss(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    u, noise = numbers.noise
    return {"x": numbers.inputs["x"], "u": u, "noise": noise}


def total(numbers: Numbers) -> Array:
    return np.asarray(sum(numbers.outputs[f"out.{name}"] for name in ("fm", "vq", "commit")))


def forward(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    return {"idx": numbers.inputs["idx"], "y": numbers.inputs["cond_idx"]}


def model_loss(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    """No class is dropped."""
    return {"tokens": numbers.inputs["targets"], "y": numbers.inputs["cond_idx"], "drop": np.ones(2)}


def sampler(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    """Uniform variates in the middle of the ranges of the codes that the authors' code drew."""
    probs, drawn = numbers.outputs["out.probs"].astype(np.float64), numbers.outputs["out.ids"].T
    upper = np.take_along_axis(np.cumsum(probs, axis=-1), drawn[..., None], -1)[..., 0]
    u = upper - np.take_along_axis(probs, drawn[..., None], -1)[..., 0] / 2
    return {"y": numbers.inputs["cond_idx"], "scale": np.full(2, 8.0, np.float32), "u": u.astype(np.float32)}


CASES = [
    Forward("d_ar.encode", "d_ar_tokenizer", SIZES, encode, wanted=lambda n: n.outputs["out.codes"], method="encode"),
    Sampler(
        "d_ar.decode",
        "d_ar_tokenizer",
        SIZES,
        decode,
        wanted=lambda numbers: numbers.outputs["out.images"],
        tolerance=1e-5,
        program="decode",
    ),
    Loss("d_ar.train", "d_ar_tokenizer", SIZES, loss, wanted=total),
    Forward("d_ar.gpt", "d_ar", MODEL, forward, wanted=lambda numbers: numbers.outputs["out.0"]),
    Loss("d_ar.gpt", "d_ar", MODEL, model_loss, wanted=lambda numbers: numbers.outputs["out.1"]),
    Sampler(
        "d_ar.gpt_sampler",
        "d_ar",
        MODEL,
        sampler,
        wanted=lambda numbers: numbers.outputs["out.ids"],
        tolerance=1e-9,
    ),
]
