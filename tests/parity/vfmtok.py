"""VFMTok (Zheng et al. 2025): the autoregressive model; its tokenizer is tested in tests/systems/vfmtok."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from cases import Array, Forward, Loss
from parity_data import Numbers

SIZES = (
    "data.classes=10",
    "data.tokens={vocabulary: 64, grid: [4, 4]}",
    "backbone.width=64",
    "backbone.depth=2",
    "backbone.block.mixer.heads=4",
    "backbone.block.feed_forward.multiple_of=32",
)


def forward(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    return {"idx": numbers.inputs["idx"], "y": numbers.inputs["cond_idx"]}


def loss(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    """No class is dropped."""
    return {"tokens": numbers.inputs["targets"], "y": numbers.inputs["cond_idx"], "drop": np.ones(2)}


CASES = [
    Forward("vfmtok.gpt", "vfmtok", SIZES, forward, wanted=lambda numbers: numbers.outputs["out.0"]),
    Loss("vfmtok.gpt", "vfmtok", SIZES, loss, wanted=lambda numbers: numbers.outputs["out.1"]),
]
