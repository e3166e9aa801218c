"""DDT (Wang et al. 2025): the network, the velocity's error, Euler's method with guidance in an interval."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from cases import Array, Forward, Loss, Sampler
from parity_data import Numbers

SIZES = ("data.shape=[4, 8, 8]", "data.classes=10", "data.fields=null", "objective.further=[]", "backbone.width=64")
SIZES += ("backbone.depth=2", "backbone.decoder_depth=2", "backbone.block.mixer.heads=4", "backbone.alignment=null")


def inputs(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    return {name: numbers.inputs[name] for name in ("x", "t", "y")}


def loss_inputs(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    drop, t, noise = numbers.noise
    null = np.where(drop < 0.3, 0.0, 1.0).astype(np.float32)  # ours drops below 0.1
    return {"x": numbers.inputs["x"], "y": numbers.inputs["y"], "u": t, "noise": noise, "drop": null}


def sampler_inputs(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    return {"x": numbers.inputs["noise"], "y": numbers.inputs["y"], "scale": np.full(2, 2.0, np.float32)}


CASES = [
    Forward("ddt", "ddt", SIZES, inputs, wanted=lambda numbers: numbers.outputs["out.x"]),
    Loss("ddt.loss", "ddt", SIZES, loss_inputs, wanted=lambda numbers: numbers.outputs["out.loss"]),
    Sampler("ddt.sampler_euler6", "ddt", (*SIZES, "sampler.steps=6"), sampler_inputs),
]
