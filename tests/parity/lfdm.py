"""LFDM (Ni et al. 2023): the flow autoencoder and its loss. The authors' images have values from 0 to 1."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from cases import Array, Forward, Loss
from parity_data import Numbers

HOURGLASS = "width: 6, most: 24, blocks: 2"
AUTOENCODER = (
    "backbone.regions=3",
    "backbone.factor=2",
    *(f"backbone.{name}={{{HOURGLASS}}}" for name in ("region", "flow", "background")),
    "backbone.image={width: 6, most: 24, halvings: 2, blocks: 2}",
)
IMAGES = ("data.fields.x.shape=[3, 1, 32, 32]", *AUTOENCODER)
PAIR = ("data.fields.x.shape=[3, 2, 32, 32]", *AUTOENCODER)


def centred(images: Array) -> Array:
    """From 0…1 to -1…1."""
    return 2 * images - 1


def inputs(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    given = numbers.inputs
    found = {"image": centred(given["source"])}
    if "driving" in given:
        found |= {"driving": centred(given["driving"]), "video": centred(given["driving"])[:, :, None]}
    else:
        motion = np.concatenate([given["flow"].transpose(0, 3, 1, 2), centred(given["occlusion"])], axis=1)
        found["motion"] = motion[:, :, None]
    return found


def motion(numbers: Numbers) -> Array:
    flow, visible = numbers.outputs["out.flow"], numbers.outputs["out.occlusion"]
    return np.concatenate([flow.transpose(0, 3, 1, 2), centred(visible)], axis=1)[:, :, None]


def loss_inputs(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    source, driving = (centred(numbers.inputs[name]) for name in ("source", "driving"))
    theta, bends = numbers.noise  # scaled by their standard deviations
    return {
        "x": np.stack([source, driving], axis=2),
        "frames": np.tile([0, 1], (len(source), 1)),
        "theta": theta / 0.05,
        "bends": bends[:, 0] / 0.005,
    }


def equivariance(numbers: Numbers) -> Array:
    return numbers.outputs["out.equivariance_shift"] + numbers.outputs["out.equivariance_affine"]


CASES = [
    Forward(
        "lfae",
        "lfdm_autoencoder",
        IMAGES,
        inputs,
        wanted=motion,
        method="flow",
        tolerance=3e-5,
        why="roots of covariances are inverted: the authors' float32 and float64 runs differ by 8e-6",
    ),
    Forward(
        "lfae.decode",
        "lfdm_autoencoder",
        IMAGES,
        inputs,
        wanted=lambda numbers: centred(numbers.outputs["out.prediction"])[:, :, None],
        method="animate",
    ),
    Loss(
        "lfae.loss",
        "lfdm_autoencoder",
        (*PAIR, "objective.pixels=1e-30"),
        loss_inputs,
        wanted=equivariance,
    ),
]
