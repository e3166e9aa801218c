"""ADC-GAN's generator and its discriminator of five outputs; BigGAN-deep, whose blocks have bottlenecks; the networks
of IC-GAN; AugSelf-GAN's discriminator.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from cases import Array, Forward
from parity_data import ADC_GAN, Numbers

DEEP = (
    "data.shape=[3, 32, 32]",
    "data.classes=10",
    "networks.main.width=16",
    "networks.main.channel_multipliers=[4, 4, 4, 4]",
    "networks.main.attention=[16]",
    "networks.main.latent_dim=16",
    "networks.main.embedding=16",
    "networks.discriminator.width=16",
    "networks.discriminator.input_multiplier=4",
    "networks.discriminator.channel_multipliers=[4, 4, 4]",
    "networks.discriminator.downsample_levels=2",
    "networks.discriminator.attention=[16, 8]",
)
INSTANCE = (
    "data.fields.x.shape=[3, 32, 32]",
    "networks.main.width=8",
    "networks.main.channel_multipliers=[4, 4, 4, 4]",
    "networks.main.attention=[16]",
    "networks.main.latent_dim=20",
    "networks.main.vector_embedding=8",
    "networks.discriminator.width=8",
    "networks.discriminator.channel_multipliers=[4, 4, 4, 4]",
    "networks.discriminator.downsample_levels=2",
    "networks.discriminator.attention=[16, 8]",
)
WITH_CLASS = (*INSTANCE, "data.fields.y.classes=10", "data.class_names=null", "networks.main.embedding=16")
ALL = ("score", "discriminative", "classes", "twin_classes", "classes_and_fake")


def given(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    return numbers.inputs


def image(numbers: Numbers) -> Array:
    return numbers.outputs["out.x"]


def side_by_side(numbers: Numbers) -> Array:
    return np.concatenate([numbers.outputs[f"out.{i}"] for i in range(5)], 1)


def joined(out: Any, numbers: Numbers, spec: Any) -> Array:
    return np.concatenate([out[name] for name in ALL], 1)


OF_DISCRIMINATOR = {"discriminator": ""}
OF_INSTANCES = [
    case
    for spec, kind, sizes in (("ic_gan", "instance", INSTANCE), ("ic_gan_class", "cc", WITH_CLASS))
    for case in (
        Forward(f"ic_gan.G_{kind}", spec, sizes, given),
        Forward(f"ic_gan.D_{kind}", spec, sizes, given, prefixes=OF_DISCRIMINATOR, network="discriminator"),
    )
]
AUGSELF = ("networks.main.width=8", "networks.discriminator.width=8")
SCORE = {"prefixes": OF_DISCRIMINATOR, "network": "discriminator"}
SLIM = ("networks.main.width=16", "networks.main.latent_dim=8", "networks.discriminator.width=4")
AT_WIDTHS = [
    Forward(
        "slimgan.G",
        "slimgan",
        SLIM,
        given,
        wanted=lambda numbers, i=i: numbers.outputs[f"out.{i}"],
        output=lambda out, numbers, spec: out[:, :, ::2, ::2],
        method="forward" if i == 3 else f"forward_{i}",
    )
    for i in range(4)
]
CASES = [
    *AT_WIDTHS,
    Forward("augself.D", "augself_gan", AUGSELF, given, **SCORE),
    *OF_INSTANCES,
    Forward("adcgan.G", "adc_gan", tuple(ADC_GAN), given, wanted=image),
    Forward(
        "adcgan.D",
        "adc_gan",
        tuple(ADC_GAN),
        given,
        wanted=side_by_side,
        output=joined,
        prefixes=OF_DISCRIMINATOR,
        network="discriminator",
        every_output=True,
    ),
    Forward("biggan_deep.G", "biggan_deep", DEEP, given, wanted=image),
    Forward("biggan_deep.D", "biggan_deep", DEEP, given, prefixes=OF_DISCRIMINATOR, network="discriminator"),
]
