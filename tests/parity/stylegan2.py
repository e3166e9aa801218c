"""StyleGAN2's generator of StyleSAN, with the generator's own noise, and its discriminators."""

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
ALONE = (*SIZES, "objective=null", "networks.discriminator=null", "weights.official.discriminator=null")
ALONE = (*ALONE, "train.optimizers={}")


def given(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    return {"z": numbers.inputs["z"], "y": numbers.inputs["c"].argmax(1), "psi": np.ones(2, np.float32)}


DISCRIMINATOR = (
    *("data.shape=[3, 16, 16]", "networks.discriminator.channel_base=128", "networks.discriminator.channel_max=16"),
    "networks.discriminator.deviation_group=2",
)
RESIDUAL = (
    *(*DISCRIMINATOR, "networks.discriminator.deviation_group=4", "networks.discriminator.residual=true"),
    *("data.classes=0", "conditioning.class=null"),
)
JUDGED = {"network": "discriminator", "prefixes": {"discriminator": ""}}


def judged(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    return {"x": numbers.inputs["x"], "y": numbers.inputs["y"]}


CASES = [
    Forward("stylegan2.D", "stylegan2", DISCRIMINATOR, judged, **JUDGED),
    Forward("stylegan2.D_residual", "stylegan2", RESIDUAL, judged, **JUDGED),
    Forward("san.stylegan2_G", "stylegan2", SIZES, given),
    Sampler("san.stylegan2_G", "stylegan2", (*ALONE, "sampler.noise=const"), given, tolerance=1e-5),
]
