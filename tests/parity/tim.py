"""TiM (Wang et al. 2025): the network, its loss by a difference of two evaluations with gradients, and its steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from cases import Array, Forward, Loss, Sampler
from parity_data import Numbers

SIZES = ("data.shape=[4, 8, 8]", "data.classes=10", "data.class_names=null", "data.first_stage=null")
SIZES += ("data.fields={features: {shape: [16, 12]}}", "backbone.width=64", "backbone.depth=2")
SIZES += ("backbone.block.mixer.heads=4", "backbone.block.condition.hidden=20")
SIZES += ("backbone.alignment={blocks: 1, hidden: 24, features: [12]}",)
LOSS = (*SIZES, "objective.to_data=0.25", "objective.direction=false")


def inputs(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    given = {name: numbers.inputs[name] for name in ("x", "t", "r", "y")}
    return {"x": given["x"], "t": given["t"], "span": given["t"] - given["r"], "y": given["y"]}


def loss(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    given, (u, u_r) = numbers.inputs, numbers.noise
    drawn = {"u": u, "u_r": u_r, "noise": given["z"], "drop": np.ones(len(u), np.float32)}
    # Half of the batch has no span, and the span of the last quarter ends at the data.
    instant = np.array([0.0, 0.1, 0.6, 0.9], np.float32)
    return {"x": given["x"], "y": given["y"], "features": given["h"], "instant": instant, **drawn}


def sampler(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    return {"x": numbers.inputs["z"], "y": numbers.inputs["y"], "scale": np.full(2, 1.75, np.float32)}


CASES = [
    Forward("tim", "tim", SIZES, inputs, wanted=lambda numbers: numbers.outputs["out.F"]),
    Loss("tim.loss_dde", "tim", LOSS, loss, wanted=lambda n: n.outputs["out.weighted"] + n.outputs["out.projection"]),
    Sampler("tim.sampler_4", "tim", (*SIZES, "sampler.steps=4"), sampler),
]
