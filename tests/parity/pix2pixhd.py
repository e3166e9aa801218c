"""pix2pixHD: both generators, the discriminator's layers at all scales, the encoder of instances, both losses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from cases import Array, Forward, Loss
from parity_data import Numbers

FIELDS = "data.fields={{x: {{shape: [3, {0}, {0}]}}, labels: {{shape: [{1}, {0}, {0}], classes: null}}}}"
PLAIN = ("conditioning.instances=null", "networks.perceptual=null")
SMALL = tuple(f"networks.discriminator.{size}" for size in ("width=8", "depth=2", "scales=2"))
GLOBAL = ("networks.main.width=8", "networks.main.depth=2", "networks.main.blocks=2")
LOCAL = (*(f"networks.main.{size}" for size in ("width=6", "depth=2", "blocks=1", "local_blocks=2")),)
INSTANCES = "data.fields={x: {shape: [3, 16, 16]}, labels: {shape: [16, 16], classes: 4}, instances: {shape: [16, 16], "
INSTANCES += "classes: 24}}"
ENCODER = (INSTANCES, "networks.encoder.width=6", "networks.encoder.depth=2", "networks.encoder.features=2")
ENCODER = (*ENCODER, "networks.main.depth=2", "networks.perceptual=null")
LOSS = (INSTANCES, *GLOBAL[:2], "networks.main.blocks=1", *SMALL, "networks.perceptual.width=2")
LOSS = (*LOSS, "networks.perceptual.pretrained=null")
OF_ALL = {"main": "netG.", "discriminator": "netD.", "perceptual": "vgg."}


def maps(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    return {"labels": numbers.inputs["x"]}


def maps_and_image(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    """The authors join the image behind its maps."""
    return {"labels": numbers.inputs["x"][:, :3], "x": numbers.inputs["x"][:, 3:]}


def layers(out: Any, numbers: Numbers, spec: Any) -> Array:
    return np.concatenate([out[f"scale_{s}_layer_{i}"].ravel() for s in range(2) for i in range(4)])


def recorded_layers(numbers: Numbers) -> Array:
    return np.concatenate([numbers.outputs[f"out.{s}.{i}"].ravel() for s in range(2) for i in range(4)])


def of_an_image(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    return {"x": numbers.inputs["x"], "instances": numbers.inputs["inst"][:, 0]}


def batch(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    given = numbers.inputs
    return {"x": given["image"], "labels": given["label"][:, 0], "instances": given["inst"][:, 0]}


def of_generator(numbers: Numbers) -> Array:
    return sum(numbers.outputs[f"out.G_{name}"] for name in ("GAN", "GAN_Feat", "VGG"))  # type: ignore[return-value]


def of_discriminator(numbers: Numbers) -> Array:
    return (numbers.outputs["out.D_fake"] + numbers.outputs["out.D_real"]) / 2


CASES = [
    Forward("pix2pixhd.global", "pix2pixhd", (FIELDS.format(16, 5), *PLAIN, *GLOBAL), maps),
    Forward("pix2pixhd.local", "pix2pixhd", (FIELDS.format(32, 5), *PLAIN, *LOCAL), maps, variant="1024"),
    Forward(
        "pix2pixhd.D",
        "pix2pixhd",
        (FIELDS.format(32, 3), *PLAIN, *SMALL),
        maps_and_image,
        wanted=recorded_layers,
        output=layers,
        prefixes={"discriminator": ""},
        network="discriminator",
        every_output=True,
    ),
    Forward(
        "pix2pixhd.encoder",
        "pix2pixhd",
        ENCODER,
        of_an_image,
        variant="512-features",
        prefixes={"encoder": ""},
        network="encoder",
        method="encode",
    ),
    Loss("pix2pixhd.loss", "pix2pixhd", LOSS, batch, wanted=of_generator, prefixes=OF_ALL, update="generator"),
    Loss("pix2pixhd.loss", "pix2pixhd", LOSS, batch, wanted=of_discriminator, prefixes=OF_ALL, update="discriminator"),
]
