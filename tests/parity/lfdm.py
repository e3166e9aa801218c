"""LFDM (Ni et al. 2023): the flow autoencoder and its loss, the denoiser of motion and its sampler.

The authors' images have values from 0 to 1. The recordings of the denoiser have features that no image was encoded to.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from cases import Array, Forward, Loss, Sampler
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


def denoiser(frames: int, side: int, features: str, text: int, width: int, head: int) -> tuple[str, ...]:
    """Sizes of the denoiser, without the autoencoder."""
    return (
        f"data.fields.x.shape=[3, {frames}, {4 * side}, {4 * side}]",
        "data.fields.image=null",
        f"data.fields.features={{shape: {features}}}",
        f"data.fields.text.shape=[{text}]",
        "networks.autoencoder=null",
        "conditioning.features={kind: array}",
        f"conditioning.time.frequencies={width}",
        f"networks.main.width={width}",
        "networks.main.multipliers=[1, 2]",
        "networks.main.heads=2",
        f"networks.main.head_width={head}",
        "objective={kind: diffusion, process: {kind: discrete, schedule: cosine, beta_max: 0.9999}}",
        "sampler={kind: shifted_ddim, eta: 1.0, clip: 1.0, noise_of_clipped: false, guidance: {scale: 1.0}}",
    )


def of_denoiser(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    x = numbers.inputs["x"]
    return {"x": x[:, :3], "features": x[:, 3:], "t": numbers.inputs["time"], "text": numbers.inputs["cond"]}


def of_sampler(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    first, *others = numbers.noise
    # The last step, to the data, takes none.
    given = {"x": first, "noise": np.stack([*others, np.zeros_like(first)])}
    scale = np.full(len(first), 1.5, np.float32)
    return given | {"features": numbers.inputs["fea"], "text": numbers.inputs["cond"], "scale": scale}


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
    Forward("lfdm.unet3d", "lfdm", denoiser(4, 16, "[5, 4, 16, 16]", 16, 32, 16), of_denoiser),
    Sampler(
        "lfdm.sampler_ddim5",
        "lfdm",
        (
            *denoiser(3, 8, "[5, 8, 8]", 10, 16, 8),
            "objective.process.steps=50",
            "sampler.steps=5",
            "sampler.guidance.scale=1.5",
        ),
        of_sampler,
        prefixes={"main": "denoise_fn."},
    ),
]
