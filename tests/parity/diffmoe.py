"""DiffMoE (Shi et al. 2025) and its baselines: dense, by token, by expert."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from cases import Array, Forward, Sampler
from parity_data import SIZES, Numbers

BASE = tuple(SIZES["dit"])
POOL = (*BASE, "backbone.interleaved.experts=4")
EXPERT_CHOICE = "backbone.interleaved={kind: expert_choice, experts: 4, capacity: 1, schedule: {hold: 1, until: 2}}"
FLOW = (
    "data.shape=[4, 8, 8]",
    "data.classes=10",
    "backbone.width=32",
    "backbone.depth=2",
    "sampler.steps=3",
    "sampler.guidance.scale=2.0",
)
FLOW += ("backbone.block.mixer.heads=4", "backbone.block.feed_forward={kind: swiglu, ratio: 4}")
FLOW += ("backbone.interleaved.experts=4", "backbone.interleaved.activation=swiglu")
TOKEN_CHOICE = "backbone.interleaved={kind: mixture_of_experts, experts: 4, per_token: 2, activation: gelu, shared: 1}"


def inputs(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    return {name: numbers.inputs[name] for name in ("x", "t", "y")}


def sampler_inputs(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    return {"x": numbers.inputs["z"], "y": numbers.inputs["y"], "scale": np.full(2, 2.0, np.float32)}


CASES = [
    Forward("diffmoe.diffmoe", "diffmoe", POOL, inputs, wanted=lambda numbers: numbers.outputs["out.0"]),
    Forward("diffmoe.dit", "dit", BASE, inputs),
    Forward("diffmoe.ecdit", "diffmoe", (*BASE, EXPERT_CHOICE), inputs),
    Forward("diffmoe.tcdit", "diffmoe", (*BASE, TOKEN_CHOICE), inputs, "TC-L-E16"),
    Sampler("diffmoe.sampler_rf3_cfg", "diffmoe", FLOW, sampler_inputs, variant="S-E16-flow"),
]
