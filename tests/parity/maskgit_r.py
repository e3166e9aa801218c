"""MaskGIT-r, the U-ViT over tokens that ReCAP reuses (Liu et al. 2025)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cases import Array, Forward
from parity_data import Numbers

SIZES = (
    "data.tokens={vocabulary: 32, grid: [4, 4]}",
    "data.classes=10",
    "backbone.width=64",
    "backbone.depth=3",
    "backbone.block.mixer.heads=4",
    "sampler.steps=8",
    "conditioning.class.dropout=0",  # the authors' number of classes counts that of none
)


def network(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    return {"idx": numbers.inputs["masked_ids"], "y": numbers.inputs["context"][:, 0]}


def without_mask(out: Array, numbers: Numbers, spec: Any) -> Array:
    return out[..., :32]


CASES = [
    Forward(
        "recap.maskgit_uvit",
        "maskgit_r",
        SIZES,
        network,
        wanted=lambda numbers: numbers.outputs["out.0"],
        output=without_mask,
    ),
]
