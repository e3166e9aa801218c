"""FLUX.1's transformer as diffusers computes it, on patches of latents that are packed as tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from cases import Array, Forward
from parity_data import Numbers

SIZES = (
    *("data.shape=[4, 8, 8]", "data.fields.caption.shape=[5, 24]", "data.fields.pooled.shape=[20]"),
    *("backbone.width=64", "backbone.depth=2", "backbone.single=2", "backbone.heads=4"),
    "backbone.positions.axes=[4, 6, 6]",
)


def inputs(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    given = numbers.inputs
    patches = given["hidden_states"].reshape(2, 4, 4, 4, 2, 2)
    x = patches.transpose(0, 3, 1, 4, 2, 5).reshape(2, 4, 8, 8)
    told = {"pooled": given["pooled_projections"], "caption": given["encoder_hidden_states"]}
    return {"x": x, "t": given["timestep"], "guidance": given["guidance"], **told}


def packed(out: Array, numbers: Numbers, spec: Any) -> Array:
    parts = np.reshape(out, (2, 4, 4, 2, 4, 2)).transpose(0, 2, 4, 1, 3, 5)
    return np.reshape(parts, (2, 16, 16))


WHY = "engines compute sinusoids of up to 3500 radians, 1000 times the guidance scale, in float32"
CASES = [Forward("flux", "flux", SIZES, inputs, output=packed, names="diffusers", tolerance=5e-5, why=WHY)]
