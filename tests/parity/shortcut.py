"""Shortcut models (Frans et al. 2024): the network with its step size, its targets, samples in 1 and 4 steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from cases import Array, Forward, Loss, Sampler
from parity_data import Numbers

SIZES = ("data.shape=[4, 8, 8]", "data.classes=10", "data.class_names=null", "backbone.width=64", "backbone.depth=2")
SIZES += ("backbone.block.mixer.heads=4", "backbone.block.feed_forward.ratio=2")
SAMPLED = (*SIZES, "networks.target=null", "objective.target=null")
TARGETS = (*SIZES, "conditioning.step_size.finest=8", "objective.guidance=null", "objective.bootstrap=0.25")


def first(x: Array) -> Array:
    """Channels before rows and columns."""
    return x.transpose(0, 3, 1, 2)


def inputs(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    given = numbers.inputs
    sizes = np.float32(2.0) ** -given["dt_base"].astype(np.float32)
    return {"x": first(given["x"]), "t": given["t"], "step_size": sizes, "y": given["y"]}


def loss_inputs(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    """Their batch: its first 4 samples with steps of 1/4, 1/2, 1 and 1 from halves, then its first 12 as a flow."""
    of_halves, noise_of_halves, drop, of_flow, noise = numbers.noise
    level = np.array([2, 1, 0, 0])
    times = [(of_halves + 0.5) / 2**level, (of_flow[:12] + 0.5) / 8]
    kept = [*range(4), *range(12)]
    return {
        "x": first(numbers.inputs["images"])[kept],
        "y": numbers.inputs["labels"][kept],
        "level": np.concatenate([level, np.zeros(12, np.int64)]),
        "share": np.where(np.arange(16) < 4, 0.1, 0.9).astype(np.float32),
        "u": np.concatenate(times).astype(np.float32),
        "noise": first(np.concatenate([noise_of_halves, noise[:12]])),
        "drop": drop[kept],
    }


def sampler_inputs(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    return {"x": first(numbers.inputs["x"]), "y": numbers.inputs["y"]}


def last(out: Any, numbers: Numbers, spec: Any) -> Array:
    return np.moveaxis(np.asarray(out), 1, -1)


def wanted(numbers: Numbers) -> Array:
    return numbers.outputs["out.loss"]


CASES = [
    Forward("shortcut", "shortcut", SAMPLED, inputs, output=last),
    Loss("shortcut.targets", "shortcut", TARGETS, loss_inputs, wanted=wanted, prefixes={"main": "", "target": ""}),
    Sampler("shortcut.sampler_1", "shortcut", (*SAMPLED, "sampler.steps=1"), sampler_inputs, output=last),
    Sampler("shortcut.sampler_4", "shortcut", (*SAMPLED, "sampler.steps=4"), sampler_inputs, output=last),
]
