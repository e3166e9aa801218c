"""EDM2 (Karras et al. 2024): the network, its uncertainty, its loss, the sampler guided by another network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from cases import Array, Forward, Loss, Sampler
from edm import denoised, per_sample
from edm import inputs as edm_inputs
from parity_data import Numbers

DATA = ("data.shape=[4, 16, 16]", "data.classes=10", "data.first_stage=null", "conditioning.time.frequencies=32")
SMALL = ("multipliers=[1, 2]", "blocks=1", "attention=[1]", "block.head_channels=16")
SIZES = (*DATA, "networks.main.width=32", *(f"networks.main.{size}" for size in SMALL))
SIZES += ("networks.uncertainty.frequencies=16",)
GUIDE = (*(f"networks.guide.{size}" for size in SMALL), "networks.guide.width=16", "networks.guide.frequencies=16")
GUIDE += ("networks.guide.conditions=[]",)


def inputs(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    return edm_inputs(numbers, spec)


def head_inputs(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    return {"t": np.log(numbers.inputs["sigma"]) / 4}


def loss_inputs(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    u, noise = numbers.noise
    y = numbers.inputs["labels"].argmax(1)
    return {"x": numbers.inputs["images"], "y": y, "u": u.reshape(-1), "noise": noise}


def sampler_inputs(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    given = {"x": numbers.inputs["noise"], "y": numbers.inputs["labels"], "noise": np.stack(numbers.noise)}
    return {**given, "scale": np.full(len(given["x"]), 2.0, np.float32)}


BOTH = {"main": "", "uncertainty": ""}
HEUN = "{kind: heun, steps: 8, churn: {amount: 8}, guidance: {kind: autoguidance, network: guide, scale: 2.0}}"
CASES = [
    Forward("edm2", "edm2", SIZES, inputs, wanted=lambda numbers: numbers.outputs["out.0"], output=denoised),
    Forward(
        "edm2",
        "edm2",
        SIZES,
        head_inputs,
        wanted=lambda numbers: numbers.outputs["out.1"].reshape(-1),
        prefixes={"uncertainty": ""},
        network="uncertainty",
    ),
    Loss("edm2.loss", "edm2", SIZES, loss_inputs, wanted=per_sample, prefixes=BOTH),
    Sampler(
        "edm2.sampler_edm8_guided",
        "edm2_autoguidance",
        (*SIZES, *GUIDE, f"sampler={HEUN}"),
        sampler_inputs,
        prefixes={"main": "net.", "uncertainty": "net.", "guide": "gnet."},
    ),
]
