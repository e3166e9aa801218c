"""JiT (Li and He 2025): the network with class tokens from its third block on, the velocity's error, Heun's method."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from cases import Array, Forward, Loss, Sampler
from parity_data import Numbers

SIZES = ("data.shape=[3, 16, 16]", "data.classes=10", "backbone.width=64", "backbone.depth=4", "backbone.patch=4")
SIZES += ("backbone.bottleneck=8", "backbone.context=3", "backbone.context_start=2", "backbone.block.mixer.heads=4")


def inputs(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    return {name: numbers.inputs[name] for name in ("x", "t", "y")}


def loss_inputs(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    drop, u, noise = numbers.noise
    return {"x": numbers.inputs["x"], "y": numbers.inputs["labels"], "u": u, "noise": noise, "drop": drop}


def sampler_inputs(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    return {"x": numbers.noise[0], "y": numbers.inputs["labels"], "scale": np.full(2, 2.9, np.float32)}


CASES = [
    Forward("jit", "jit", SIZES, inputs),
    Loss("jit.loss", "jit", SIZES, loss_inputs, prefixes={"main": "net."}),
    Sampler("jit.sampler_heun6", "jit", (*SIZES, "sampler.steps=6"), sampler_inputs, prefixes={"main": "net."}),
]
