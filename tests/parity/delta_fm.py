"""DeltaFM (Stoica et al. 2025): SiT with projections, its contrastive loss, and REPA's samplers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from cases import Array, Forward, Loss, Sampler
from parity_data import Numbers

SIZES = ("data.shape=[4, 16, 16]", "data.classes=10", "data.fields.features.shape=[64, 32]", "backbone.width=64")
SIZES += ("backbone.depth=2", "backbone.block.mixer.heads=4")
SIZES += ("backbone.alignment={blocks: 1, hidden: 64, features: [32]}",)

KEPT = "{kind: interference, network: mean, kept: 0.9, interval: [0.35, 1]}]"


def inputs(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    return {name: numbers.inputs[name] for name in ("x", "t", "y")}


def both(out: Mapping[str, Array], numbers: Numbers, spec: Any) -> Array:
    """Prediction and projection in a row."""
    return np.concatenate([np.ravel(array) for array in out.values()])


def official_both(numbers: Numbers) -> Array:
    return np.concatenate([numbers.outputs["out.0"].ravel(), numbers.outputs["out.1.0"].ravel()])


def loss_inputs(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    u, noise, chosen = numbers.noise
    count = len(chosen)
    other = (chosen + 0.5) / (count - 1)  # as a uniform number that falls on the same one
    given = {"x": numbers.inputs["images"], "y": numbers.inputs["labels"], "features": numbers.inputs["zs"]}
    return {**given, "u": u.ravel(), "noise": noise, "other": other, "drop": np.ones(count)}


def total(numbers: Numbers) -> Array:
    """The authors' training loss: the contrastive one, and half of the projection's."""
    return numbers.outputs["out.0.loss"].astype(np.float64) + 0.5 * numbers.outputs["out.1"]


def sampler_inputs(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    given = {"x": numbers.inputs["latents"], "y": numbers.inputs["y"]}
    return {**given, "noise": np.stack(numbers.noise)} if numbers.noise else given


def interfered(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    scales = {"scale": 1.85, "interference_scale": 0.05}
    return {**sampler_inputs(numbers, spec), **{name: np.full(2, scale, np.float32) for name, scale in scales.items()}}


def sampled(name: str, sampler: str) -> Sampler:
    return Sampler(
        f"deltafm.sampler_{name}",
        "delta_fm",
        (*SIZES, f"sampler={sampler}"),
        sampler_inputs,
        wanted=lambda numbers: numbers.outputs["out.samples"],
    )


CASES = [
    Forward("deltafm.sit", "delta_fm", SIZES, inputs, wanted=lambda numbers: numbers.outputs["out.0"]),
    Forward(
        "deltafm.sit",
        "delta_fm",
        SIZES,
        inputs,
        wanted=official_both,
        output=both,
        every_output=True,
        method="train_forward",
    ),
    Loss("deltafm.loss", "delta_fm", SIZES, loss_inputs, wanted=total),
    sampled("em", "{kind: euler_maruyama, steps: 8, guidance: null}"),
    sampled("euler", "{kind: euler, steps: 8, guidance: null}"),
    sampled("heun", "{kind: heun, steps: 6, last: euler, guidance: null}"),
    Sampler(
        "deltafm.sampler_em_interference",
        "delta_fm",
        (*SIZES, "sampler.steps=5", "sampler.guidance=[{scale: 1.85, interval: [0.35, 1]}, " + KEPT),
        interfered,
        variant="XL/2-interference",
        wanted=lambda numbers: numbers.outputs["out.samples"],
        prefixes={"mean": "mean.", "main": ""},
    ),
]
