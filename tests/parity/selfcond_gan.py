"""Self-conditioned GANs: both players of three pairs of networks, the features that are clustered, the loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cases import Array, Forward, Loss
from parity_data import Numbers

RESIDUAL = ("data.shape=[3, 32, 32]", "data.classes=5", "networks.main.width=2", "networks.discriminator.width=2")
RESIDUAL = (*RESIDUAL, "networks.main.latent_dim=8", "networks.main.embedding=6", "objective.clustered=null")
DCGAN = ("data.classes=4", "networks.main.width=4", "networks.discriminator.width=4")
DCGAN = (*DCGAN, "networks.main.latent_dim=8", "networks.main.embedding=6")
DEEP = ("data.classes=10", "networks.main.width=8", "networks.discriminator.width=8")
DEEP = (*DEEP, "networks.main.latent_dim=16", "networks.main.embedding=16")
OF_DISCRIMINATOR: Mapping[str, Any] = {"prefixes": {"discriminator": ""}, "network": "discriminator"}
SCORED: Mapping[str, Any] = {**OF_DISCRIMINATOR, "wanted": lambda numbers: numbers.outputs["out.out"]}
DESCRIBED: Mapping[str, Any] = {
    **OF_DISCRIMINATOR,
    "wanted": lambda numbers: numbers.outputs["out.features"],
    "method": "features",
}


def given(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    return numbers.inputs


def score(out: Any, numbers: Numbers, spec: Any) -> Array:
    return out[:, 0]


def of_discriminator(numbers: Numbers) -> Array:
    return numbers.outputs["out.d_loss"] + numbers.outputs["out.reg"]


CASES = [
    Forward("selfcond_gan.resnet_G", "selfcond_gan", RESIDUAL, given),
    Forward("selfcond_gan.resnet_D", "selfcond_gan", RESIDUAL, given, output=score, **SCORED),
    Forward("selfcond_gan.resnet_D", "selfcond_gan", RESIDUAL, given, **DESCRIBED),
    Forward("selfcond_gan.dcgan_G", "selfcond_dcgan", DCGAN, given),
    Forward("selfcond_gan.dcgan_D", "selfcond_dcgan", DCGAN, given, output=score, **SCORED),
    Forward("selfcond_gan.dcgan_D", "selfcond_dcgan", DCGAN, given, **DESCRIBED),
    Forward("selfcondgan.G", "selfcond_dcgan", DEEP, given, variant="cifar10"),
    Forward("selfcondgan.D", "selfcond_dcgan", DEEP, given, variant="cifar10", output=score, **OF_DISCRIMINATOR),
    Loss(
        "selfcond_gan.loss",
        "selfcond_gan",
        (*RESIDUAL, "objective.terms.1.weight=10"),
        given,
        wanted=of_discriminator,
        prefixes={"main": "G.", "discriminator": "D."},
        update="discriminator",
        tolerance=5e-5,
        why="gradients of data and of samples almost cancel, so the recorded float32 sums are off by 1e-10",
    ),
]
