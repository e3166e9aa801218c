"""S2M: the classifier with three heads, StudioGAN's generators with and without a class, chains of both."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from cases import Array, Forward, Sampler
from parity_data import Numbers

GENERATOR = ("networks.main.width=8", "networks.main.latent_dim=16", "networks.main.embedding=12")
BLOCKS = "{multiplier: 2, expansion: 1}, {multiplier: 3, blocks: 2, stride: 2, expansion: 2}"
BLOCKS += ", {multiplier: 4, stride: 2, expansion: 2}, {multiplier: 40, stride: 2, expansion: 2}"
SIZES = (*GENERATOR, f"networks.classifier.stages=[{BLOCKS}]")
CHAIN = ("sampler.steps=8", "sampler.label_temperature=1.5", "sampler.validity_temperature=2")
HEADS = ("validity", "of_data", "of_samples")


def given(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    return numbers.inputs


def joined(out: Any, numbers: Numbers, spec: Any) -> Array:
    return np.concatenate([np.reshape(out[name], (3, -1)) for name in HEADS], axis=1)


def heads(numbers: Numbers) -> Array:
    return np.concatenate([numbers.outputs[f"out.{name}"].reshape(3, -1) for name in HEADS], axis=1)


OF_CLASSIFIER: dict[str, Any] = {"prefixes": {"classifier": ""}, "network": "classifier", "every_output": True}
PAIR = {"main": "G.", "classifier": "C."}
CASES = [
    Forward("s2m.C", "s2m", SIZES, given, wanted=heads, output=joined, **OF_CLASSIFIER),
    Forward("s2m.G", "s2m", SIZES, given),
    Forward("s2m.G_unconditional", "s2m", SIZES, given, variant="cifar-unconditional"),
    Sampler("s2m.sampler_cgan", "s2m", (*SIZES, *CHAIN), given, prefixes=PAIR),
    Sampler("s2m.sampler_gan", "s2m", (*SIZES, *CHAIN), given, variant="cifar-unconditional", prefixes=PAIR),
]
