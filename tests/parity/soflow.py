"""SoFlow (Luo et al. 2025): the network, both losses with their gradients, samples with new noise between the steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from cases import Array, Forward, Loss, Sampler
from parity_data import Numbers

SIZES = ("data.shape=[4, 8, 8]", "data.classes=10", "data.class_names=null", "backbone.width=64", "backbone.depth=2")
SIZES += ("backbone.block.mixer.heads=4",)
LOSSES = (*SIZES, "train.steps=1000", "conditioning.class.dropout=0.3")
PREFIX = {"main": "network."}


def inputs(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    given = {name: numbers.inputs[name] for name in ("x_t", "t", "s", "labels")}
    return {"x": given["x_t"], "t": given["t"], "span": given["t"] - given["s"], "y": given["labels"]}


def logit(t: Array, mean: float, std: float) -> Array:
    t = t.astype(np.float64).ravel()
    return (np.log(t) - np.log1p(-t) - mean) / std


def drawn(numbers: Numbers, matched: bool) -> dict[str, Array]:
    drop, noise = numbers.noise
    given = numbers.inputs
    t, s = given["t"], given.get("s", given["t"])
    return {
        "x": given["samples"],
        "y": given["labels"],
        "drop": drop,
        "noise": noise,
        "share": np.full(len(drop), 0.0 if matched else 0.9, np.float32),
        "u": logit(t, -0.2, 1.0),
        "u_t": logit(t, 0.2, 0.8),
        "u_s": logit(s, -1.0, 0.8),
        "training_step": np.array(300),
    }


def velocity(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    return drawn(numbers, True)


def consistency(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    return drawn(numbers, False)


def sampler(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    first, *steps = numbers.noise
    return {"x": first, "y": numbers.inputs["labels"], "noise": np.stack([*steps, np.zeros_like(first)])}


def loss(numbers: Numbers) -> Array:
    return numbers.outputs["out.loss"]


CASES = [
    Forward("soflow", "soflow", SIZES, inputs, wanted=lambda numbers: numbers.outputs["out.network"], prefixes=PREFIX),
    Loss("soflow.loss_velocity", "soflow", LOSSES, velocity, wanted=loss, prefixes=PREFIX),
    Loss(
        "soflow.loss_consistency",
        "soflow",
        LOSSES,
        consistency,
        wanted=loss,
        prefixes=PREFIX,
        tolerance=4e-5,
        why="the authors' own rounding is 3.5e-5 of the gradients: solutions are subtracted over a small gap",
    ),
    Sampler("soflow.sampler_4", "soflow", (*SIZES, "sampler.steps=4"), sampler, prefixes=PREFIX),
]
