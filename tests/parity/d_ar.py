"""D-AR (Gao and Shou 2025): codes of images, images of codes, the flow's and the codebook's losses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from cases import Array, Forward, Loss, Sampler
from parity_data import Numbers

SIZES = ("data.shape=[3, 64, 64]", "backbone.width=64", "backbone.depth=1", "backbone.condition_depth=1")
SIZES += ("backbone.pixel_depth=2", "backbone.pixel_patch=4", "backbone.queries=8", "backbone.group=2")
SIZES += ("backbone.codebook=32", "backbone.channels=6", "backbone.block.mixer.heads=1", "sampler.steps=4")


def encode(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    return {"x": numbers.inputs["x"]}


def decode(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    return {"codes": numbers.inputs["codes"], "noise": numbers.noise[0]}


def loss(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    u, noise = numbers.noise
    return {"x": numbers.inputs["x"], "u": u, "noise": noise}


def total(numbers: Numbers) -> Array:
    return np.asarray(sum(numbers.outputs[f"out.{name}"] for name in ("fm", "vq", "commit")))


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
]
