"""EqM (Wang and Du 2025): SiT's network at time 0, the loss with dispersion, gradient descent with momentum."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from cases import Array, Forward, Loss, Sampler
from parity_data import Numbers

SIZES = ("data.shape=[4, 8, 8]", "data.classes=10", "backbone.width=64", "backbone.depth=3")
SIZES += ("backbone.block.mixer.heads=4",)


def inputs(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    return {"x": numbers.inputs["x0"], "t": numbers.inputs["t"], "y": numbers.inputs["y"]}


def loss_inputs(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    noise, u = numbers.noise
    drop = np.ones(len(u))
    return {"x": numbers.inputs["x1"], "y": numbers.inputs["y"], "u": u, "noise": noise, "drop": drop}


def sampler_inputs(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    return {"x": numbers.inputs["z"], "y": numbers.inputs["y"], "scale": np.full(2, 4.0, np.float32)}


CASES = [
    Forward("eqm", "eqm", SIZES, inputs),
    Loss("eqm.loss", "eqm", SIZES, loss_inputs, wanted=lambda numbers: numbers.outputs["out.loss"].mean()),
    Sampler("eqm.sampler_nag8", "eqm", (*SIZES, "sampler.steps=7", "sampler.size=0.1"), sampler_inputs),
]
