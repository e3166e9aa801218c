"""StyleGAN2's generator of StyleSAN, with the generator's own noise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from cases import Array, Forward, Sampler
from parity_data import Numbers

SIZES = (
    "data.shape=[3, 16, 16]",
    "data.classes=10",
    "backbone.channel_base=256",
    "backbone.channel_max=32",
    "backbone.latent_dim=16",
    "backbone.style_dim=16",
    "backbone.mapping_layers=2",
)


def given(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    return {"z": numbers.inputs["z"], "y": numbers.inputs["c"].argmax(1), "psi": np.ones(2, np.float32)}


CASES = [
    Forward("san.stylegan2_G", "stylegan2", SIZES, given),
    Sampler("san.stylegan2_G", "stylegan2", (*SIZES, "sampler.noise=const"), given, tolerance=1e-5),
]
