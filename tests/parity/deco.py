"""DeCo (Ma et al. 2025): the network, its error at shifted times and by frequency."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from cases import Array, Forward, Loss
from parity_data import Numbers

SIZES = ("data.shape=[3, 16, 16]", "data.classes=10", "data.fields=null", "backbone.width=64", "backbone.depth=2")
SIZES += ("backbone.decoder_depth=2", "backbone.pixel_width=8", "backbone.patch=4", "backbone.alignment=null")
SIZES += ("backbone.block.mixer.heads=4", "objective.further=[{kind: frequency_error}]")
SHIFTED = ("objective.process={kind: warped_path, noise_time: 0, shift: 1.5}",)


def inputs(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    return {name: numbers.inputs[name] for name in ("x", "t", "y")}


def loss_inputs(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    u, noise = numbers.noise
    return {"x": numbers.inputs["x"], "y": numbers.inputs["y"], "u": u, "noise": noise, "drop": np.ones(len(u))}


def error(numbers: Numbers) -> Array:
    """Without the alignment of features, which is REPA's."""
    return numbers.outputs["out.fm_loss"] + numbers.outputs["out.fm_loss_freq"]  # type: ignore[no-any-return]


CASES = [
    Forward("deco", "deco", SIZES, inputs),
    Loss("deco.loss", "deco", (*SIZES, *SHIFTED), loss_inputs, wanted=error, prefixes={"main": "net."}),
]
