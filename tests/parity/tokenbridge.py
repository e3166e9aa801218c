"""TokenBridge (Wang et al. 2025): the loss; its sampler is tested in tests/systems/tokenbridge."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from cases import Array, Loss
from parity_data import Numbers

SIZES = (
    "data.classes=6",
    "data.shape=[16, 4, 4]",
    "networks.main.width=48",
    "networks.main.depth=1",
    "networks.main.buffer=4",
    "networks.main.block.mixer.heads=3",
    "networks.head.width=32",
    "networks.head.depth=2",
    "networks.head.levels=8",
    "networks.head.block.mixer.heads=4",
    "sampler={kind: channel_autoregressive, steps: 4, guidance: {scale: 2.5, schedule: linear}}",
)


def loss(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    """No class is dropped."""
    *orders, _ = numbers.noise
    fraction = (1 - numbers.inputs["mask_rate"]) / 0.25
    return {
        "x": numbers.inputs["imgs"],
        "y": numbers.inputs["labels"],
        "fraction": np.repeat(fraction, 2).astype(np.float32),
        "order": np.stack(orders),
        "drop": np.ones(2, np.float32),
    }


CASES = [
    Loss(
        "tokenbridge.loss",
        "tokenbridge",
        SIZES,
        loss,
        wanted=lambda numbers: numbers.outputs["out.loss"],
        prefixes={"main": "", "head": ""},
    )
]
