"""REPA (Yu et al. 2024): the loss of SiT with projections to two encoders' features, and its sampler in an interval."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from cases import Array, Loss, Sampler
from parity_data import Numbers

SIZES = ("data.shape=[4, 8, 8]", "data.fields={z0: {shape: [16, 12]}, z1: {shape: [16, 20]}}", "backbone.width=64")
SIZES += ("backbone.depth=3", "backbone.block.mixer.heads=4")
SIZES += ("backbone.alignment={blocks: 1, hidden: 32, features: [12, 20]}",)
SIZES += ("objective.further=[{kind: feature_alignment, features: [z0, z1], weight: 0.5}]",)


def loss(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    (u, noise), given = numbers.noise, numbers.inputs
    fields = {"x": given["images"], "y": given["y"], "z0": given["z0"], "z1": given["z1"]}
    return {**fields, "u": u.ravel(), "noise": noise, "drop": np.ones(len(u), np.float32)}


def sampler(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    given = {"x": numbers.inputs["latents"], "y": numbers.inputs["y"], "noise": np.stack(numbers.noise)}
    return {**given, "scale": np.full(2, 1.8, np.float32)}


CASES = [
    Loss("repa.loss", "repa", SIZES, loss, wanted=lambda numbers: numbers.outputs["out.total"]),
    Sampler(
        "repa.sampler_em6",
        "repa",
        (*SIZES, "sampler={kind: euler_maruyama, steps: 6, guidance: {scale: 1.8, interval: [0.3, 1]}}"),
        sampler,
    ),
]
