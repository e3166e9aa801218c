"""RAE (Zheng et al. 2025): DiT-DH, its error at shifted times, Euler's method guided in an interval."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import NormalDist
from typing import Any

import numpy as np
from cases import Array, Forward, Loss, Sampler
from parity_data import Numbers

SIZES = (
    "data.first_stage=null",
    "data.shape=[8, 4, 4]",
    "data.classes=10",
    "networks.main.width=48",
    "networks.main.depth=3",
)
SIZES += ("networks.main.decoder_width=96", "networks.main.decoder_heads=4", "networks.main.block.mixer.heads=3")
SIZES += ("objective.process.shift=5.656854249", "sampler.spacing.shift=5.656854249")


def inputs(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    return {name: numbers.inputs[name] for name in ("x", "t", "y")}


def loss_inputs(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    """The authors' uniforms as the truncated normals that they become."""
    noise, uniform = numbers.noise
    places = uniform.astype(np.float64) * spec.objective.process.draw().parameters["high"]
    u = np.array([NormalDist().inv_cdf(p) for p in places])
    return {"x": numbers.inputs["x1"], "y": numbers.inputs["y"], "u": u, "noise": noise, "drop": np.ones(len(u))}


def sampler_inputs(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    return {"x": numbers.inputs["z"], "y": numbers.inputs["y"], "scale": np.full(2, 1.5, np.float32)}


GUIDED = ("sampler.steps=5", "sampler.guidance={scale: 1.5, interval: [0.1, 0.9]}")

CASES = [
    Forward("rae.ditdh", "rae", SIZES, inputs),
    Loss("rae.loss", "rae", SIZES, loss_inputs, wanted=lambda numbers: numbers.outputs["out.loss"]),
    Sampler("rae.sampler_euler6_cfg", "rae", (*SIZES, *GUIDED), sampler_inputs),
]
