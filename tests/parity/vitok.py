"""ViTok (Hansen-Estruch et al. 2025): the tokenizer, and the transformer over its latents with its sampler."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from cases import Array, Forward, Sampler
from parity_data import Numbers

TOKENIZER = (
    "data.shape=[3, 32, 32]",
    "backbone.width=64",
    "backbone.depth=1",
    "backbone.decoder_depth=2",
    "backbone.patch=8",
    "backbone.block.mixer.heads=4",
    "backbone.bottleneck.channels=4",
)
SIZES = (
    "data.shape=[4, 16]",
    "data.classes=10",
    "data.class_names=null",
    "backbone.width=64",
    "backbone.depth=2",
    "backbone.block.mixer.heads=4",
)


def image(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    """Video of one frame, which is an image here."""
    return {"x": numbers.inputs["x"][:, :, 0]}


def forward(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    t = numbers.inputs["t"].astype("float32")
    return {"x": numbers.inputs["x"].swapaxes(1, 2), "t": t, "y": numbers.inputs["y"]}


GENERATED = (
    "data.first_stage=null",
    "data={kind: npz, path: train.npz, shape: [4, 9], classes: 10}",
    "backbone.width=32",
    "backbone.depth=1",
    "backbone.block.mixer.heads=2",
    "sampler.steps=6",
)


def generated(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    return {
        "x": numbers.inputs["x"].swapaxes(1, 2),
        "y": numbers.inputs["y"],
        "scale": np.full(2, 1.5, np.float32),
        "noise": np.stack(numbers.noise).swapaxes(2, 3),
    }


CASES = [
    Sampler(
        "vitok.sampler_ddim6",
        "vitok",
        GENERATED,
        generated,
        wanted=lambda numbers: numbers.outputs["out"].swapaxes(1, 2),
    ),
    Forward("vitok.ae", "vitok_tokenizer", TOKENIZER, image, wanted=lambda numbers: numbers.outputs["out.0"][:, :, 0]),
    Forward("vitok.dit", "vitok", SIZES, forward, wanted=lambda numbers: numbers.outputs["out"].swapaxes(1, 2)),
]
