"""DC-AE (Chen et al. 2024) as diffusers has it: latents and images, without blocks in the first level, by strides."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from cases import Array, Forward
from parity_data import Numbers

SIZES = ("data.shape=[3, 16, 16]", "backbone.widths=[16, 16, 32]", "backbone.attention=2", "backbone.head_width=8")
SIZES += ("backbone.channels=8",)
SHUFFLE = (*SIZES, "backbone.blocks=[1, 1, 1]", "backbone.decoder_blocks=[1, 1, 1]", "backbone.scales=[5]")
SHUFFLE += ("backbone.batch_normed=0",)
BARE = (*SIZES, "backbone.blocks=[0, 1, 1]", "backbone.decoder_blocks=[0, 2, 1]", "backbone.batch_normed=2")
CONV = (*SIZES, "backbone.blocks=[1, 1, 1]", "backbone.decoder_blocks=[1, 2, 1]")


def images(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    return {"x": numbers.inputs["x"]}


def latents(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    return {"z": numbers.outputs["out.z"]}


def part(name: str) -> Callable[[Numbers], Array]:
    return lambda numbers: numbers.outputs[name]


def means(out: Any, numbers: Numbers, spec: Any) -> Array:
    """Codes without their log-variance, which the authors' code does not have."""
    return np.asarray(out)[:, : spec.networks["main"].channels]


CASES = [
    case
    for name, sizes, variant in (("dcae", SHUFFLE, None), ("dcae.bare", BARE, None), ("dcae.conv", CONV, "sana"))
    for case in (
        Forward(name, "dc_ae", sizes, images, variant, part("out.z"), means, names="diffusers", method="encode"),
        Forward(name, "dc_ae", sizes, latents, variant, part("out.x"), names="diffusers", method="decode"),
        Forward(name, "dc_ae", sizes, images, variant, part("out.x"), names="diffusers"),
    )
]
