"""PixelFlow (Chen et al. 2025): the network at its last stage, by class and text, and the sampler of three stages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from cases import Array, Forward, Sampler
from parity_data import Numbers

SIZES = (
    "data.class_names=null",
    "backbone.depth=2",
)
NETWORK = (
    *SIZES,
    "data.classes=10",
    "data.shape=[3, 16, 16]",
    "backbone.width=64",
    "backbone.block.mixer.heads=4",
    "backbone.stages=2",
    "objective.stages=2",
    "sampler.guidance.weights=null",
)
STAGES = (
    *SIZES,
    "data.shape=[3, 16, 16]",
    "backbone.width=32",
    "backbone.patch=2",
    "backbone.block.mixer.heads=2",
    "backbone.stages=3",
    "objective.stages=3",
    "sampler.steps=3",
    "sampler.guidance.weights=[0, 0.16666666666666666, 0.6666666666666666]",
)
TEXT = (
    "backbone.depth=2",
    "data.shape=[3, 16, 16]",
    "data.fields={text: {shape: [5, 24]}, text_mask: {shape: [5], dtype: bool}}",
    "backbone.width=64",
    "backbone.block.mixer.heads=4",
    "backbone.stages=1",
    "objective.stages=1",
    "conditioning.text.dropout=0",  # features of an empty text are no weights of theirs
    "sampler.guidance=null",
)


def network(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    given = numbers.inputs
    return {
        "x": given["hidden_states"],
        "t": given["timestep"],
        "y": given["class_labels"],
        "side": given["latent_size"],
    }


def text(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    given = numbers.inputs
    mask = given["mask"].astype(bool)
    return {**given, "text_mask": mask, "text_given": np.ones(len(mask), np.float32)}


def sampler(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    first, blocks = numbers.noise
    one, two = np.split(blocks, [3 * 4 * 4])
    noise = {"noise_1": one.reshape(1, 3, 4, 4, 4), "noise_2": two.reshape(1, 3, 8, 8, 4)}
    return {"x": first, "y": numbers.inputs["prompt"], "scale": np.full(1, 4.0, np.float32), **noise}


def pictures(out: Any, numbers: Numbers, spec: Any) -> Array:
    return np.clip(np.asarray(out) / 2 + 0.5, 0, 1).transpose(0, 2, 3, 1)


CASES = [
    Forward("pixelflow", "pixelflow", NETWORK, network),
    Forward("pixelflow.text", "pixelflow_t2i", TEXT, text),
    # Its noise between stages, of a nearly singular covariance, is rounded as by the authors.
    Sampler("pixelflow.sampler_3stage", "pixelflow", STAGES, sampler, output=pictures, tolerance=1e-5),
]
