"""STARFlow-V (Gu et al. 2025): latents of a video, its noise, samples by Jacobi iterations, also behind a frame."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from cases import Array, Forward, Sampler
from parity_data import Numbers

SIZES = (
    "data.fields.x.shape=[4, 4, 4, 6]",
    "data.fields.text.shape=[3, 16]",
    "data.fields.text_mask.shape=[3]",
    *(f"networks.{name}.width=64" for name in ("main", "denoiser")),
    *(f"networks.{name}.block.mixer.heads=2" for name in ("main", "denoiser")),
    *(f"networks.{name}.positions.side=5" for name in ("main", "denoiser")),
    "networks.main.last_width=null",
    "networks.main.flows=3",
    "networks.main.depths=[1, 1, 1]",
    "networks.denoiser.depth=2",
    "networks.denoiser.before=1",
    "sampler.guidance.scale=3",
    "sampler.jacobi={block: 12, later: 48, iterations: 12, threshold: 0.001}",
)
PREFIXES = {"main": "", "denoiser": ""}


def video(x: Array) -> Array:
    """[B, C, F, H, W] of the authors' [B, F, C, H, W], and back."""
    return x.transpose(0, 2, 1, 3, 4)


def tokens(x: Array) -> Array:
    """[B, T, C] of the authors' [B, F, C, H, W]."""
    return x.transpose(0, 1, 3, 4, 2).reshape(len(x), -1, x.shape[2])


def told(numbers: Numbers) -> Mapping[str, Array]:
    text = numbers.inputs["y"][:1]
    return {"text": text, "text_mask": np.ones(text.shape[:2], bool)}


def inputs(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    return {"x": video(numbers.inputs["x"]), **told(numbers)}


def latents(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    return {"z": tokens(numbers.inputs["x"]), **told(numbers), "scale": np.full(1, 3, np.float32)}


def behind(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    """The authors' latents of the given frame are not used."""
    frame = {name: video(numbers.inputs[name][:, None]) for name in ("image", "noise")}
    own = {"z": tokens(numbers.inputs["x"][:, 1:]), "given": frame["image"], "given_noise": frame["noise"]}
    return {**latents(numbers, spec), **own}


CASES = [
    Forward(
        "starflow_v.fwd",
        "starflow_v",
        SIZES,
        inputs,
        prefixes=PREFIXES,
        wanted=lambda numbers: tokens(numbers.outputs["out"]),
    ),
    Forward(
        "starflow_v.fwd",
        "starflow_v",
        SIZES,
        inputs,
        prefixes=PREFIXES,
        wanted=lambda numbers: 0.3 * video(numbers.outputs["out.noise"]),
        network="denoiser",
    ),
    Sampler(
        "starflow_v.sampler_jacobi",
        "starflow_v",
        SIZES,
        latents,
        prefixes=PREFIXES,
        wanted=lambda numbers: video(numbers.outputs["out"]),
    ),
    Sampler(
        "starflow_v.extend_jacobi",
        "starflow_v",
        SIZES,
        behind,
        variant="ti2v-480p",
        prefixes=PREFIXES,
        wanted=lambda numbers: video(numbers.outputs["out"]),
        program="extend",
    ),
]
