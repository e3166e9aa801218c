"""SIM's PixArt (Luo et al. 2024): one modulation for all blocks, cross-attention to a caption; the one-step sampler."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from cases import Array, Forward, Sampler
from parity_data import Numbers

SIZES = ("data.shape=[4, 8, 8]", "data.fields.caption.shape=[5, 32]", "backbone.width=64", "backbone.depth=2")
SIZES += ("backbone.block.mixer.heads=4",)


def inputs(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    caption = numbers.inputs["y"][:, 0]
    given = {"x": numbers.inputs["x"], "t": numbers.inputs["timestep"], "caption": caption}
    count, length, _ = caption.shape
    return {**given, "caption_mask": np.ones((count, length), bool), "caption_given": np.ones(count, np.float32)}


def sampler(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    caption = numbers.inputs["y"][:, 0]
    told = {"caption": caption, "caption_mask": np.ones(caption.shape[:2], bool)}
    return {"x": numbers.inputs["z"], **told, "caption_given": np.ones(len(caption), np.float32)}


CASES = [
    Forward("sim.pixart", "pixart", SIZES, inputs),
    Sampler("sim.sampler_one_step", "pixart", SIZES, sampler, "XL/2-512-sim"),
]
