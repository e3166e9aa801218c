"""Stochastic interpolants with couplings (Albergo et al. 2023): the network, the coupled loss, two solvers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from cases import Array, Forward, Loss, Sampler
from parity_data import Numbers

SIZES = ("data.shape=[3, 8, 12]", "data.classes=7", "backbone.width=16", "backbone.multipliers=[1, 2, 3]")
SIZES += ("conditioning.low.factor=2", "conditioning.time.frequencies=6")
SIZES += ("backbone.middle.heads=3", "backbone.middle.head_width=10")


def inputs(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    return numbers.inputs


def loss_inputs(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    t, noise = numbers.noise
    return {**numbers.inputs, "u": (t - 0.001) / 0.998, "noise": noise}


def per_pixel(numbers: Numbers) -> Array:
    return numbers.outputs["out"] / np.float32(3 * 8 * 12)


def sampler_inputs(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    return {"x": numbers.noise[0], **numbers.inputs}


def sampled(solver: str, sampler: str) -> Sampler:
    return Sampler(f"interpolant.sampler_{solver}", "interpolant_sr", (*SIZES, f"sampler={sampler}"), sampler_inputs)


CASES = [
    Forward("interpolant.unet", "interpolant_sr", SIZES, inputs),
    Loss("interpolant.loss", "interpolant_sr", SIZES, loss_inputs, wanted=per_pixel),
    sampled("euler", "{kind: euler, steps: 6, eps: 0.001}"),
    sampled(
        "dopri5", "{kind: dopri5, rules: torchdiffeq, rtol: 1e-5, atol: 1e-5, eps: 0.001, norm: batch, max_steps: 8}"
    ),
]
