"""TarFlow (Zhai et al. 2024): latents with and without a class, the loss, and the guided inverse."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from cases import Array, Forward, Loss, Sampler
from parity_data import Numbers

SIZES = (
    "data.shape=[3, 8, 8]",
    "data.classes=10",
    "backbone.width=64",
    "backbone.flows=2",
    "backbone.depth=2",
    "backbone.block.mixer.heads=1",
)


def inputs(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    return {"x": numbers.inputs["x"], "y": numbers.inputs.get("y", np.full(2, 10))}


def latent(numbers: Numbers) -> Array:
    return numbers.outputs["out.f.0"]


def loss_inputs(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    """The authors' loss is of data with its noise."""
    return {**inputs(numbers, spec), "drop": np.ones(2), "noise": np.zeros_like(numbers.inputs["x"])}


def sampled(name: str, scale: float, options: str = "", kind: str = "flow_inverse") -> Sampler:
    """The authors' guidance w is the scale 1 + w."""

    def given(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
        return {"z": numbers.inputs["x"], "y": numbers.inputs["y"], "scale": np.full(2, scale, np.float32)}

    guidance = f", guidance: {{scale: {scale}}}" if scale != 1 else ", guidance: null"
    sampler = f"sampler={{kind: {kind}{guidance}{options}}}"
    return Sampler(f"tarflow.sampler_reverse_{name}", "tarflow", (*SIZES, sampler), given)


CASES = [
    Forward("tarflow.fwd", "tarflow", SIZES, inputs, wanted=latent),
    Forward("tarflow.fwd_nolabel", "tarflow", SIZES, inputs, wanted=latent),
    Loss("tarflow.fwd", "tarflow", SIZES, loss_inputs, wanted=lambda numbers: numbers.outputs["out.loss"]),
    sampled("g0", 1),
    sampled("g1_annealed", 2, ", attention_temperature: 0.9", "annealed_inverse"),
    sampled("g2", 3),
]
