"""DiMR (Liu et al. 2024): all outputs, from coarse to fine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from cases import Array, Forward
from parity_data import Numbers

BRANCHES = "[{width: 64, half: 1, patch: 2, block: coarse, heads: 4}, {width: 32, half: 1}]"
SIZES = ("data.shape=[4, 16, 16]", "data.classes=10", f"backbone.branches={BRANCHES}")
SIZES += ("backbone.coarse.mixer.heads=4", "conditioning.time={kind: scalar, scale: 0.25}")


def inputs(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    return {"x": numbers.inputs["x"], "t": numbers.inputs["log_snr"], "y": numbers.inputs["y"]}


def joined(out: Any, numbers: Numbers, spec: Any) -> Array:
    fine, coarse = out.values()
    return np.concatenate([np.ravel(coarse), np.ravel(fine)])


def wanted(numbers: Numbers) -> Array:
    return np.concatenate([np.ravel(numbers.outputs["out.0"]), np.ravel(numbers.outputs["out.1"])])


CASES = [
    Forward("dimr", "dimr", SIZES, inputs, wanted=wanted, output=joined, every_output=True, method="train_forward"),
]
