"""U-ViT (Bao et al. 2022) and its two samplers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from cases import Array, Forward, Sampler
from parity_data import Numbers

SIZES = ("data.shape=[4, 16, 16]", "backbone.width=64", "backbone.half=1", "backbone.patch=2")
SIZES += ("backbone.block.mixer.heads=4", "conditioning.time.frequencies=64", "backbone.output_conv=true")
LATENT = (*SIZES, "data.classes=10")  # and a row of the table for none
PIXELS = (*SIZES, "data.classes=11")
FAST = "{kind: dpm_solver_singlestep, steps: 10, predict_x0: false, spacing: log_snr}"
GUIDED = "{kind: dpm_solver_singlestep, steps: 8, guidance: {scale: 1.7}}"


def inputs(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    return {"x": numbers.inputs["x"], "t": numbers.inputs["timesteps"], "y": numbers.inputs["y"]}


def sampler_inputs(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    x = numbers.inputs["x_T"]
    return {"x": x, "y": numbers.inputs["y"], "scale": np.full(len(x), 1.7, np.float32)}


CASES = [
    Forward("uvit", "uvit", LATENT, inputs),
    Sampler(
        "uvit.sampler_dpm_fast10",
        "uvit",
        (*PIXELS, "objective.process.eps=1e-4", f"sampler={FAST}"),
        sampler_inputs,
        "imagenet64-M/4",
    ),
    Sampler("uvit.sampler_dpmpp8_cfg", "uvit", (*LATENT, f"sampler={GUIDED}"), sampler_inputs),
]
