"""The DiT that CAN starts from (Cai et al. 2024), on latents of DC-AE: patches of one pixel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cases import Array, Forward
from parity_data import SIZES, Numbers

SMALL = (*SIZES["dit"], "data.shape=[8, 8, 8]", "backbone.patch=1")
NORM_AFTER = (*SMALL, "backbone.block.condition={kind: post_norm}")


def inputs(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    return {name: numbers.inputs[name] for name in ("x", "t", "y")}


CASES = [
    Forward("efficientvit.dit", "can", SMALL, inputs, "efficientvit-XL/1"),
    Forward("efficientvit.post_norm", "can", NORM_AFTER, inputs, "efficientvit-XL/1"),
]
