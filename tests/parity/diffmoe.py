"""DiffMoE (Shi et al. 2025) and its baselines: dense, by token, by expert."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cases import Array, Forward
from parity_data import SIZES, Numbers

BASE = tuple(SIZES["dit"])
POOL = (*BASE, "backbone.interleaved.experts=4")
EXPERT_CHOICE = "backbone.interleaved={kind: expert_choice, experts: 4, capacity: 1, schedule: {hold: 1, until: 2}}"
TOKEN_CHOICE = "backbone.interleaved={kind: mixture_of_experts, experts: 4, per_token: 2, activation: gelu, shared: 1}"


def inputs(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    return {name: numbers.inputs[name] for name in ("x", "t", "y")}


CASES = [
    Forward("diffmoe.diffmoe", "diffmoe", POOL, inputs, wanted=lambda numbers: numbers.outputs["out.0"]),
    Forward("diffmoe.dit", "dit", BASE, inputs),
    Forward("diffmoe.ecdit", "diffmoe", (*BASE, EXPERT_CHOICE), inputs),
    Forward("diffmoe.tcdit", "diffmoe", (*BASE, TOKEN_CHOICE), inputs),
]
