"""MaskGIT-r, the U-ViT over tokens that ReCAP reuses (Liu et al. 2025), and AutoNAT's sampler (Ni et al. 2024)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from cases import Array, Forward, Sampler
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


SEARCHED = (
    "data.tokens={vocabulary: 24, grid: [16, 16]}",
    "data.classes=10",
    "backbone.width=32",
    "backbone.depth=3",
    "backbone.block.mixer.heads=2",
    "sampler.inpaint=false",
)


def searched(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    u, gumbel = numbers.noise
    scale = np.full(2, 2.0, np.float32)
    return {"y": numbers.inputs["y"], "scale": scale, "u": u, "gumbel": gumbel.astype(np.float32)}


CASES = [
    # Tokens are the same or differ by more than this.
    Sampler("maskgit_r.autonat", "maskgit_r", SEARCHED, searched, "AutoNAT-L-T8", tolerance=1e-9),
    Forward(
        "recap.maskgit_uvit",
        "maskgit_r",
        SIZES,
        network,
        wanted=lambda numbers: numbers.outputs["out.0"],
        output=without_mask,
    ),
    Forward(
        "maskgit_r.no_skip",
        "maskgit_r",
        (*SIZES, "backbone.long_skips=false"),
        network,
        wanted=lambda numbers: numbers.outputs["out.0"],
        output=without_mask,
    ),
]
