"""PixelCNN++ (Salimans et al. 2017): parameters of the mixtures, and the loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from cases import Array, Forward, Loss
from parity_data import Numbers

SIZES = ("data.classes=0", "conditioning.class=null", "backbone.width=16", "backbone.blocks=1", "backbone.mixture=2")


def inputs(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    return {"x": numbers.inputs["x"]}


def per_dimension(numbers: Numbers) -> Array:
    """The authors' loss is a sum over pixels and samples."""
    return np.asarray(numbers.outputs["out"] / numbers.inputs["x"].size)


CASES = [
    Forward("pixelcnnpp", "pixelcnn_pp", ("data.shape=[3, 16, 16]", *SIZES), inputs),
    Loss(
        "pixelcnnpp.dmol_loss",
        "pixelcnn_pp",
        ("data.shape=[3, 8, 8]", "backbone.dropout=0", *SIZES),
        inputs,
        wanted=per_dimension,
    ),
]
