"""FlowTurbo (Zhao et al. 2024): predictor, refiner, and the sampler of all three kinds of steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from cases import Array, Forward, Sampler
from parity_data import Numbers

SIZES = (
    "data.shape=[4, 16, 16]",
    "data.classes=10",
    *(f"networks.{name}.{size}" for name in ("main", "refiner") for size in ("width=64", "block.mixer.heads=4")),
    "networks.main.depth=2",
    *(f"sampler.{stage}" for stage in ("heun=1", "pseudo=2", "refined=2")),
)


def inputs(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    return {**numbers.inputs, "velocity": numbers.inputs.get("v")}


def sampler(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    """The authors' batch holds each sample twice, the second time without its class."""
    half = len(numbers.inputs["x"]) // 2
    scale = np.full(half, 4.0, np.float32)
    return {"x": numbers.inputs["x"][:half], "y": numbers.inputs["y"][:half], "scale": scale}


CASES = [
    Forward("flowturbo.predictor", "flowturbo", SIZES, inputs),
    Forward("flowturbo.refiner", "flowturbo", SIZES, inputs, network="refiner", prefixes={"refiner": ""}),
    Sampler(
        "flowturbo.sampler_H1P2R2",
        "flowturbo",
        SIZES,
        sampler,
        wanted=lambda numbers: numbers.outputs["out"][:1],
        prefixes={"main": "predictor.", "refiner": "refiner."},
    ),
]
