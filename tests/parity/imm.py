"""IMM (Zhou et al. 2025): a step of the network from t to s, and both samplers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from cases import Array, Forward, Sampler
from parity_data import Numbers

SIZES = ("data.shape=[4, 8, 8]", "data.classes=10", "data.class_names=null", "data.first_stage=null")
SIZES += ("backbone.width=64", "backbone.depth=2", "backbone.block.mixer.heads=4")
RESTART = ("sampler={kind: renoised_flow_map, steps: 4, guidance: {scale: 1.5}}",)
PREFIX = {"main": "model."}


def labels(numbers: Numbers) -> Array:
    """Classes of the authors' one-hot vectors; zeros are no class."""
    given = numbers.inputs["class_labels"]
    return np.where(given.any(1), given.argmax(1), given.shape[1])


def inputs(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    x, t, s = (numbers.inputs[name] for name in ("x", "t", "s"))
    deviation = spec.objective.process.sigma_data * np.sqrt((1 - t) ** 2 + t**2)
    scaled = (x / deviation.reshape(-1, 1, 1, 1)).astype(np.float32)
    return {"x": scaled, "t": 1000 * t, "span": t - s, "y": labels(numbers)}


def stepped(out: Array, numbers: Numbers, spec: Any) -> Array:
    x, t, s = (numbers.inputs[name] for name in ("x", "t", "s"))
    return x - ((t - s) * spec.objective.process.sigma_data).reshape(-1, 1, 1, 1) * out


def sampler(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    x = numbers.inputs["latents"]
    given = {
        "x": x / np.float32(spec.objective.process.sigma_data),
        "y": labels(numbers),
        "scale": np.full(2, 1.5, np.float32),
    }
    return given | ({"noise": np.stack([*numbers.noise, np.zeros_like(x)])} if numbers.noise else {})


CASES = [
    Forward(
        "imm",
        "imm",
        SIZES,
        inputs,
        wanted=lambda numbers: numbers.outputs["out.plain"],
        output=stepped,
        prefixes=PREFIX,
    ),
    Sampler("imm.sampler_pushforward4", "imm", (*SIZES, "sampler.steps=4"), sampler, prefixes=PREFIX),
    Sampler("imm.sampler_restart4", "imm", (*SIZES, *RESTART), sampler, prefixes=PREFIX),
]
