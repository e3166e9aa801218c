"""PFGM++ (Xu et al. 2023): EDM's network, and its sampler from the heavy-tailed prior."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from cases import Array, Forward, Sampler
from edm import SONG, denoised, inputs
from parity_data import Numbers

SIZES = (*SONG, "conditioning.augment=null", "backbone.early=[class]")


def from_prior(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    """The latents are given; their length says which number the beta distribution drew."""
    latents = numbers.inputs["latents"].astype(np.float64)
    length = np.sqrt((latents**2).sum((1, 2, 3)))
    ratio = (length / spec.objective.process.sigma_max) ** 2 / spec.objective.process.extra_dimensions
    outer = spec.objective.process.extra_dimensions < math.prod(latents.shape[1:])
    share = 1 / (1 + ratio) if outer else ratio / (1 + ratio)
    return {"x": latents.astype(np.float32), "y": numbers.inputs["class_labels"], "share": share}


CASES = [
    Forward("pfgmpp", "pfgmpp", SIZES, inputs, "cifar10-D128", output=denoised),
    Sampler("pfgmpp.sampler_edm10", "pfgmpp", (*SIZES, "sampler={kind: heun, steps: 10}"), from_prior, "cifar10-D128"),
]
