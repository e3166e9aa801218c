"""PixNerd (Wang et al. 2025): the network, its error at shifted times, Adams-Bashforth guided in an interval."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from cases import Array, Forward, Loss, Sampler
from parity_data import Numbers

SIZES = ("data.shape=[3, 16, 16]", "data.classes=10", "data.fields=null", "objective.further=[]", "backbone.width=64")
SIZES += ("backbone.depth=2", "backbone.decoder_depth=2", "backbone.pixel_width=8", "backbone.patch=4")
SIZES += ("backbone.block.mixer.heads=4", "backbone.alignment=null")
SHIFTED = ("objective.process={kind: warped_path, noise_time: 0, shift: 2.0}",)
ADAMS = "sampler={kind: adams_bashforth, steps: 6, order: 2, spacing: {kind: shifted, shift: 0.3333333333333333}, "
ADAMS += "guidance: {scale: 4.0, interval: [0.1, 1.0]}}"


def inputs(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    return {name: numbers.inputs[name] for name in ("x", "t", "y")}


def loss_inputs(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    u, noise = numbers.noise
    return {"x": numbers.inputs["x"], "y": numbers.inputs["y"], "u": u, "noise": noise, "drop": np.ones(len(u))}


def sampler_inputs(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    y = numbers.inputs["y"]
    return {"x": numbers.inputs["noise"], "y": y, "scale": np.full(len(y), 4.0, np.float32)}


CASES = [
    Forward("pixnerd", "pixnerd", SIZES, inputs),
    Loss(
        "pixnerd.loss", "pixnerd", (*SIZES, *SHIFTED), loss_inputs, wanted=lambda numbers: numbers.outputs["out.loss"]
    ),
    Sampler("pixnerd.sampler_adam6", "pixnerd", (*SIZES, ADAMS), sampler_inputs),
]
