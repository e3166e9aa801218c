"""MAR's autoencoder (Li et al. 2024), latent diffusion's with 16 times smaller latents: moments and reconstruction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from cases import Array, Forward
from parity_data import Numbers

SIZES = ("data.shape=[3, 16, 16]", "backbone.multipliers=[1, 1]", "backbone.attention=[]")
SIZES += ("backbone.bottleneck.channels=4",)


def inputs(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    return numbers.inputs


def moments(numbers: Numbers) -> Array:
    return np.concatenate([numbers.outputs["out.mean"], numbers.outputs["out.logvar"]], axis=1)


def case(method: str, wanted: Any) -> Forward:
    return Forward("mar_vae.kl", "sd_vae", SIZES, inputs, "kl16", wanted, method=method, names="original")


CASES = [case("encode", moments), case("forward", lambda numbers: numbers.outputs["out.dec"])]
