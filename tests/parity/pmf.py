"""pMF: both heads on pixels, the loss without perceptual distances, samples in one and three evaluations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from cases import Array, Forward, Loss, Sampler
from imf import heads, last, network, sampler
from imf import loss as given
from parity_data import Numbers

SIZES = ("data.shape=[3, 16, 16]", "data.classes=10", "data.class_names=null", "networks.perceptual=null")
SIZES += ("objective.perceptual=null", "objective.process.logit_mean=-0.4", "objective.process.logit_std=1")
SIZES += tuple(
    f"networks.main.{size}"
    for size in (
        *("width=64", "depth=3", "patch=4", "velocity_head=1", "block.mixer.heads=4"),
        "tokens={class: 3, omega: 2, t_min: 1, t_max: 1, span: 2}",
    )
)


def loss(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    """The authors drop as many labels as draws are small, beginning with the first sample."""
    arrays = given(numbers, spec)
    return {**arrays, "drop": np.sort(arrays["drop"])}


def sampled(steps: int, *settings: float) -> Sampler:
    defaults = (f"conditioning.{n}.default={v}" for n, v in zip(("omega", "t_min", "t_max"), settings, strict=True))
    name, sizes = f"pmf.sampler_{steps}step", (*SIZES, f"sampler.steps={steps}", *defaults)
    return Sampler(name, "pmf", sizes, sampler(*settings), output=last, names="jax")


CASES = [
    Forward(
        "pmf",
        "pmf",
        SIZES,
        network,
        wanted=lambda numbers: np.stack([numbers.outputs["out.u"], numbers.outputs["out.v"]]),
        output=heads,
        every_output=True,
        method="train_forward",
        names="jax",
    ),
    Loss("pmf.loss", "pmf", SIZES, loss, wanted=lambda numbers: numbers.outputs["out.loss"], names="jax"),
    sampled(1, 5.0, 0.1, 0.9),
    sampled(3, 2.5, 0.0, 0.7),
]
