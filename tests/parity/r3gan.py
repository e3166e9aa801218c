"""R3GAN: both networks, and both losses with their gradients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from cases import Array, Forward, Loss
from parity_data import Numbers

SIZES = (
    *("data.shape=[3, 16, 16]", "networks.main.width=8", "networks.main.channel_multipliers=[4, 3, 2]"),
    *("networks.main.groups=[4, 2, 2]", "networks.main.blocks=[1, 2, 1]", "networks.main.latent_dim=8"),
    *("networks.main.embedding=6", "networks.discriminator.width=8", "networks.discriminator.embedding=6"),
    *("networks.discriminator.channel_multipliers=[2, 3, 4]", "networks.discriminator.groups=[2, 2, 4]"),
    *("networks.discriminator.blocks=[1, 2, 1]", "objective.terms.1.weight=1", "objective.terms.1.final=0.1"),
)
BOTH = {"main": "G.", "discriminator": "D."}


def given(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    inputs = numbers.inputs
    found = {"y": inputs["y"].argmax(1), "training_step": np.int64(0)}
    if "real" in inputs:
        return {**found, "x": inputs["real"], "z": inputs["noise"]}
    return {**found, "x": inputs["x"], "z": inputs["x"]}


def score(out: Any, numbers: Numbers, spec: Any) -> Array:
    return out[:, 0]  # type: ignore[no-any-return]


def of_discriminator(numbers: Numbers) -> Array:
    out = numbers.outputs
    return out["out.adversarial"] + out["out.r1"] + out["out.r2"]  # gamma is 2


def of_generator(numbers: Numbers) -> Array:
    return numbers.outputs["out.adversarial"]


CASES = [
    Forward("r3gan.G", "r3gan", SIZES, given),
    Forward("r3gan.D", "r3gan", SIZES, given, output=score, prefixes={"discriminator": ""}, network="discriminator"),
    Loss("r3gan.loss_G", "r3gan", SIZES, given, wanted=of_generator, prefixes=BOTH, update="generator"),
    Loss("r3gan.loss_D", "r3gan", SIZES, given, wanted=of_discriminator, prefixes=BOTH, update="discriminator"),
]
