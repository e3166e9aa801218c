"""RDM (Blattmann et al. 2022): the latent diffusion U-Net with attention to neighbours, and DDIM under guidance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from cases import Array, Forward, Sampler
from parity_data import Numbers

DATA = ("data.fields={x: {shape: [3, 16, 16]}, clip: {shape: [24]}}", "conditioning.time.frequencies=32")
SIZES = (
    *DATA,
    *("backbone.width=32", "backbone.multipliers=[1, 2]", "backbone.blocks=1", "backbone.attention=[1]"),
    "backbone.block.head_channels=16",
)
DEEP = (  # the options of the authors' class that the paper's models do not use
    *DATA,
    *("backbone.width=32", "backbone.multipliers=[1, 2, 2]", "backbone.attention=[1, 2]", "backbone.resampling=block"),
    "backbone.block={embedding: scale_shift, heads: 4, transformer: {depth: 2}}",
    "conditioning.neighbours.count=7",
)
SAMPLER = "sampler={kind: ddim, steps: 10, eta: 1.0, spacing: {kind: leading, offset: 1}, final: sigma_min}"


def inputs(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    given = numbers.inputs
    return {"x": given["x"], "t": given["timesteps"], "neighbours": given["context"]}


def sampler_inputs(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    given = {"x": numbers.inputs["x_T"], "neighbours": numbers.inputs["context"], "noise": np.stack(numbers.noise)}
    return {**given, "scale": np.full(len(given["x"]), 2.0, np.float32)}


CASES = [
    Forward("rdm", "rdm", SIZES, inputs),
    Forward("rdm.deep", "rdm", DEEP, inputs),
    Sampler("rdm.sampler_ddim10_guided", "rdm", (*SIZES, SAMPLER, "sampler.guidance={scale: 2.0}"), sampler_inputs),
]
