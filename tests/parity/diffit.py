"""DiffiT (Hatamizadeh et al. 2024) in latent space, as released: the network, and three channels under its guidance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from cases import Array, Forward
from parity_data import Numbers

SIZES = ("data.shape=[4, 8, 8]", "data.classes=6", "data.class_names=null", "backbone.width=48", "backbone.depth=2")
SIZES += ("backbone.block.mixer.heads=4",)


def inputs(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    return numbers.inputs


def doubled(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    """Their guided pass gives the labels and no labels the first half of the samples."""
    half = numbers.inputs["x"][:2]
    return {**numbers.inputs, "x": np.concatenate([half, half])}


def guided(out: Array, numbers: Numbers, spec: Any) -> Array:
    """The scale grows from 1 with the progress 1 - t / 1000 of each sample, as in samplers."""
    guidance = spec.sampler.guidance
    assert guidance.scale == numbers.meta["scalars"]["cfg_scale"]
    weight = guidance.weights(spec.objective.process.progress(numbers.inputs["t"][:2]))
    scale = 1 + (guidance.scale - 1) * weight[:, None, None, None]
    mixed = out[2:, :3] + scale * (out[:2, :3] - out[2:, :3])
    return np.concatenate([np.concatenate([mixed, mixed]), out[:, 3:]], axis=1)


CASES = [
    Forward("diffit", "diffit", SIZES, inputs),
    Forward("diffit.cfg", "diffit", SIZES, doubled, output=guided),
]
