"""DiCo (Ai et al. 2025), and guidance of three channels as its authors write it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from cases import Array, Forward
from parity_data import Numbers

SIZES = ("data.shape=[4, 16, 16]", "data.classes=10", "backbone.width=32", "backbone.depths=[1, 1, 1, 1, 1]")
SIZES += ("backbone.block.feed_forward.ratio=4",)


def inputs(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    return numbers.inputs


def doubled(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    """Their guided pass gives both labels the first half of the samples."""
    half = numbers.inputs["x"][:1]
    return {**numbers.inputs, "x": np.concatenate([half, half])}


def guided(out: Array, numbers: Numbers, spec: Any) -> Array:
    scale = numbers.meta["scalars"]["cfg_scale"]
    mixed = out[1:, :3] + scale * (out[:1, :3] - out[1:, :3])
    return np.concatenate([np.concatenate([mixed, mixed]), out[:, 3:]], axis=1)


CASES = [
    Forward("dico", "dico", SIZES, inputs),
    Forward("dico.cfg", "dico", SIZES, doubled, output=guided),
]
