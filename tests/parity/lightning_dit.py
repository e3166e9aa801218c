"""LightningDiT (Yao et al. 2025): network, loss with the direction term, Euler's method on shifted times."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from cases import Array, Forward, Loss, Sampler
from parity_data import Numbers

SIZES = ("data.shape=[8, 4, 4]", "data.classes=10", "backbone.width=64", "backbone.depth=3")
SIZES += ("backbone.block.mixer.heads=4",)
SAMPLED = (*SIZES, "sampler.steps=7", "sampler.guidance.scale=3.0")


def inputs(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    return {name: numbers.inputs[name] for name in ("x", "t", "y")}


def loss_inputs(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    noise, u = numbers.noise
    count = len(u)
    return {"x": numbers.inputs["x1"], "y": numbers.inputs["y"], "u": u, "noise": noise, "drop": np.ones(count)}


def sampler_inputs(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    count = len(numbers.inputs["y"])
    return {"x": numbers.inputs["z"], "y": numbers.inputs["y"], "scale": np.full(count, 3.0, np.float32)}


CASES = [
    Forward("lightningdit", "lightning_dit", SIZES, inputs),
    Loss("lightningdit.loss", "lightning_dit", SIZES, loss_inputs, wanted=lambda numbers: numbers.outputs["out.total"]),
    Sampler("lightningdit.sampler_euler8_cfg", "lightning_dit", SAMPLED, sampler_inputs),
]
