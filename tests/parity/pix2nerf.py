"""Pix2NeRF: the field at points, and images from random places along rays, without and with hierarchical sampling."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cases import Array, Forward
from parity_data import Numbers

SMALL = ("data.shape=[3, 8, 8]", "networks.discriminator.widths=[4, 4, 4]", "networks.encoder.widths=[4, 4, 4]")
SMALL = (*SMALL, "networks.encoder.latent_dim=16", "networks.main.latent_dim=16", "networks.main.width=32")
SMALL = (*SMALL, "networks.main.extent=null")


def at_points(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    given = numbers.inputs
    return {"points": given["input"], "directions": given["ray_directions"], "z": given["z"]}


def of_draws(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    """Places along rays come first; cameras as the authors return them: pitch and yaw."""
    found = {"z": numbers.inputs["z"], "camera": numbers.outputs["out.1"], "places": numbers.noise[0][..., 0]}
    found["density_noise"] = numbers.noise[3][..., 0] * 0  # `nerf_noise: 0.0`
    if len(numbers.noise) > 4:
        found |= {"further_places": numbers.noise[4][None], "further_density_noise": numbers.noise[5][..., 0] * 0}
    return found


def images(numbers: Numbers) -> Array:
    return numbers.outputs["out.0"]


CASES = [
    Forward(
        "pix2nerf.siren",
        "pix2nerf",
        (*SMALL, "networks.main.points=8", "sampler.chunk=8"),
        at_points,
        names="siren",
        method="field_at",
    ),
    Forward(
        "pix2nerf.render",
        "pix2nerf",
        (*SMALL, "networks.main.points=6", "networks.main.hierarchical=false"),
        of_draws,
        wanted=images,
        method="train_forward",
    ),
    Forward(
        "pix2nerf.render_hier",
        "pix2nerf",
        (*SMALL, "networks.main.points=4"),
        of_draws,
        wanted=images,
        method="train_forward",
    ),
]
