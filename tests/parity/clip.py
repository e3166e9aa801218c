"""CLIP's vision transformer (Radford et al. 2021), by the Hugging Face names of its weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from cases import Array, Forward
from parity_data import Numbers

from latentc.components.layers import STATISTICS

SIZES = ("data.shape=[3, 16, 16]", "backbone.image=16", "backbone.width=32", "backbone.depth=2", "backbone.patch=4")
SIZES += ("backbone.block.mixer.heads=4", "backbone.head.features=12")


def inputs(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    """The images of which the recorded ones are the normalised."""
    mean, std = (np.float32(numbers)[:, None, None] for numbers in STATISTICS["clip"])
    return {"x": (numbers.inputs["x"] * std + mean) * 2 - 1}


CASES = [Forward("clip.vision", "clip_vision", SIZES, inputs, names="transformers", method="encode")]
