"""SANA (Xie et al. 2024) as diffusers has it: the network told features of a caption."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from cases import Array, Forward
from parity_data import Numbers

SIZES = ("data.shape=[8, 8, 8]", "data.fields.caption.shape=[5, 24]", "data.fields.caption_null.shape=[5, 24]")
SIZES += (
    "data.fields.caption_mask.shape=[5]",
    "data.fields.caption_null_mask.shape=[5]",
    "backbone.width=64",
    "backbone.depth=2",
)
SIZES += ("backbone.block.mixer.heads=4", "backbone.block.condition.cross_heads=2")


def inputs(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    """The authors' times are up to 1000."""
    caption = numbers.inputs["encoder_hidden_states"]
    given = {"x": numbers.inputs["hidden_states"], "t": numbers.inputs["timestep"] / 1000, "caption": caption}
    return {**given, "caption_mask": np.ones(caption.shape[:2], bool)}


CASES = [Forward("sana", "sana", SIZES, inputs, names="diffusers")]
