"""SiD (Zhou et al. 2024) and DMD2 (Yin et al. 2024), one-step distillation of EDM's networks: the generator's images,
what the scores predict of them, and the loss of the score of generated images, which is EDM's, with its gradients.

The generators' own losses are not compared: score implicit matching has another.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from cases import Array, Arrays, Forward, Loss, Sampler
from edm import conversion
from parity_data import Numbers

SIZES = ("data.shape=[3, 8, 8]", "data.classes=10", "data.class_names=null", "backbone.width=32")
SIZES += ("backbone.multipliers=[1, 2]", "backbone.blocks=1", "backbone.attention=[1]")
SIZES += ("backbone.embedding=2", "conditioning.time.frequencies=32")
VARIANT = "imagenet64"
START = "sampler={kind: ddim, steps: 1, timesteps: [2.5], spacing: null, guidance: null}"


def labels(numbers: Numbers) -> Array:
    return numbers.inputs["labels"].argmax(1)


def level(numbers: Numbers, number: Array) -> Array:
    """Noise levels f64[B] of DMD2's table."""
    return numbers.weights["karras_sigmas"].astype(np.float64)[number.ravel()]


def images(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    return {"x": numbers.noise[0], "y": numbers.inputs["labels"]}


def sid(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    u, noise = numbers.noise
    return {"x": numbers.inputs["images"], "y": labels(numbers), "u": u.ravel(), "noise": noise}


def dmd(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    noise, number = numbers.noise
    process = spec.objective.process
    u = (np.log(level(numbers, number)) - process.p_mean) / process.p_std
    return {"x": numbers.inputs["latents"], "y": labels(numbers), "u": u, "noise": noise}


def noisy(numbers: Numbers) -> tuple[Array, Array]:
    """(levels, noisy latents) at which both scores are evaluated."""
    number, noise = numbers.noise
    sigma = level(numbers, number)
    return sigma, numbers.inputs["latents"] + sigma[:, None, None, None] * noise


def score(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    sigma, x = noisy(numbers)
    point = spec.objective.process.point(sigma)
    return {"x": point.scale[:, None, None, None] * x, "t": point.time, "y": numbers.inputs["labels"]}


def denoised(out: Array, numbers: Numbers, spec: Any) -> Array:
    sigma, x = noisy(numbers)
    skip, scale = (
        c[:, None, None, None] for c in conversion("preconditioned", "x0", spec.objective.process.point(sigma))
    )
    return skip * x + scale * out


def per_element(numbers: Numbers) -> Array:
    return numbers.outputs["out.loss"].astype(np.float64) / numbers.inputs["images"][0].size


def predicted(network: str) -> Forward:
    return Forward(
        "dmd2.loss_dm",
        "edm",
        SIZES,
        score,
        VARIANT,
        wanted=lambda numbers: numbers.outputs[f"out.pred_{network}"],
        output=denoised,
        prefixes={"main": f"{network}_unet."},
    )


def fake(numbers: str, inputs: Arrays, prefix: str, wanted: Any, scale: float) -> Loss:
    return Loss(numbers, "edm", SIZES, inputs, VARIANT, wanted, prefixes={"main": prefix}, scale=scale)


CASES = [
    Sampler(
        "sid.generator_loss",
        "edm",
        (*SIZES, START),
        images,
        VARIANT,
        wanted=lambda numbers: numbers.outputs["out.images"],
        prefixes={"main": "G."},
    ),
    fake("sid.fake_loss", sid, "fake_score.", per_element, 3 * 8 * 8),
    fake("dmd2.loss_fake", dmd, "fake_unet.", lambda numbers: numbers.outputs["out.loss_fake"], 1),
    predicted("real"),
    predicted("fake"),
]
