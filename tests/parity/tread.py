"""TREAD (Krause et al. 2025): a DiT with a route, in rectified flow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from cases import Array, Forward, Loss, Sampler
from parity_data import Numbers

SIZES = ("data.shape=[4, 16, 16]", "data.classes=10", "backbone.width=64", "backbone.depth=4")
SIZES += ("backbone.block.mixer.heads=4",)
ROUTED = (*SIZES, "backbone.routes=[{start: 1, end: 2, ratio: 0.5}]")
SKIPS = "sampler={kind: euler, steps: 4, guidance: {kind: skipped_tokens, scale: 1.5, share: 0.7, "
SKIPS += "better_share: 0.3, absent: [class]}}"
# Of numbers in evaluation mode, in which no token skips a block.
WHOLE = (*SIZES, "backbone.unused_channels=0", "objective.process.noise_time=1", "objective.process.times=logit_normal")


def inputs(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    given = {name: numbers.inputs[name] for name in ("x", "t", "y")}
    return given | {f"scores_{i}": scores for i, scores in enumerate(numbers.noise)}


def loss_inputs(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    u, noise = numbers.noise
    return {"x": numbers.inputs["x"], "y": numbers.inputs["y"], "u": u, "noise": noise, "drop": np.ones(len(u))}


def sampler_inputs(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    z = numbers.inputs["z"]
    return {"x": z, "y": numbers.inputs["y"], "scale": np.full(len(z), 2.0, np.float32)}


def skipping(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    """Their scores are of the two predictions in turn."""
    z, scores = numbers.inputs["z"], np.stack(numbers.noise)
    told = {"x": z, "y": numbers.inputs["y"], "scale": np.full(len(z), 1.5, np.float32)}
    return {**told, "better_scores_0": scores[::2], "worse_scores_0": scores[1::2]}


CASES = [
    Forward("tread.dit", "tread", ROUTED, inputs),
    Forward("tread.dit_routed", "tread", ROUTED, inputs, method="train_forward"),
    Loss("tread.loss_rf", "sit", WHOLE, loss_inputs),
    Sampler("tread.sampler_rf8", "tread", (*ROUTED, "sampler={kind: euler, steps: 8, guidance: null}"), sampler_inputs),
    Sampler(
        "tread.sampler_rf6_cfg",
        "tread",
        (*ROUTED, "sampler={kind: euler, steps: 6, guidance: {scale: 2.0}}"),
        sampler_inputs,
    ),
    Sampler("tread.sampler_rf4_skips", "tread", (*ROUTED, SKIPS), skipping),
]
