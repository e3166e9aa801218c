"""CLIP's image encoders (Radford et al. 2021): the vision transformer by the Hugging Face names of its weights, the
residual network by OpenAI's; and SDG's residual network, which is told the time of noisy images (Liu et al. 2021).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from cases import Array, Forward
from parity_data import Numbers

from latentc.components.layers import STATISTICS

SIZES = ("data.shape=[3, 16, 16]", "backbone.image=16", "backbone.width=32", "backbone.depth=2", "backbone.patch=4")
SIZES += ("backbone.block.mixer.heads=4", "backbone.head.features=12")
RESNET = ("data.shape=[3, 64, 64]", "backbone.image=64", "backbone.width=8", "backbone.layers=[1, 2, 1, 1]")
RESNET += ("backbone.heads=4", "backbone.features=12")
NOISY = ("data.shape=[3, 64, 64]", "backbone.width=4", "backbone.heads=4", "backbone.features=6")
NOISY += ("backbone.time.width=16",)


def inputs(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    """The images of which the recorded ones are the normalised."""
    mean, std = (np.float32(numbers)[:, None, None] for numbers in STATISTICS["clip"])
    return {"x": (numbers.inputs["x"] * std + mean) * 2 - 1}


def levels(outputs: Any, numbers: Numbers, spec: Any) -> Array:
    """All maps in a row, of which the large ones are recorded at every eighth position."""
    maps = [m[:, :, ::8, ::8] if i < 3 else m for i, m in enumerate(map(np.asarray, outputs.values()))]
    return np.concatenate([m.ravel() / np.abs(m).max() for m in maps])


def wanted_levels(numbers: Numbers) -> Array:
    maps = [numbers.outputs[f"out.{i}"] for i in range(5)]
    return np.concatenate([m.ravel() / np.abs(m).max() for m in maps])


def noisy(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    return {"x": numbers.inputs["x"], "t": numbers.inputs["t"]}


CASES = [
    Forward("clip.vision", "clip_vision", SIZES, inputs, names="transformers", method="encode"),
    Forward("clip.resnet", "clip_resnet", RESNET, inputs, method="encode"),
    Forward("clip.resnet_noisy", "clip_resnet", NOISY, noisy, "RN50x16-noisy", method="see"),
    Forward(
        "clip.resnet_noisy",
        "clip_resnet",
        NOISY,
        noisy,
        "RN50x16-noisy",
        wanted=wanted_levels,
        output=levels,
        method="see_levels",
        every_output=True,
    ),
]
