"""PPAP (Go et al. 2022): the denoiser, two experts of a ResNet with low-rank adapters, one of DeiT, one of MiDaS-small.

And MiDaS-small as it was published.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from cases import Array, Forward
from parity_data import Numbers

SHAPE = ("data.classes=10", "conditioning.time.frequencies=32")
DENOISER = (
    *(*SHAPE, "data.shape=[3, 16, 16]", "backbone.width=32", "backbone.multipliers=[1, 2]", "backbone.blocks=1"),
    *("backbone.attention=[1]", "backbone.block.head_channels=16"),
)
EXPERTS = (
    *(*DENOISER, "data.shape=[3, 32, 32]", "networks.expert_0.layers=[1, 1, 1, 1]"),
    *("networks.expert_0.bottleneck=false", "networks.expert_0.adapter={rank: 4, alpha: 4}"),
)
VISION = ("data.classes=10", "data.shape=[3, 32, 32]", "networks.main.block.mixer.adapter={rank: 4, alpha: 4}")
VISION += tuple(
    f"networks.{name}.{size}"
    for name in ("main", "teacher")
    for size in ("width=32", "depths=[2]", "patch=8", "image=24", "block.mixer.heads=4")
)
_STAGES = "[{channels: 8, ratio: 1}, {channels: 8, halve: true}, {channels: 8, kernel: 5, halve: true}, "
_STAGES += "{channels: 8, blocks: 2, halve: true}, {channels: 16, blocks: 2, kernel: 5}, "
_STAGES += "{channels: 24, blocks: 2, kernel: 5, halve: true}, {channels: 32}]"
DEPTH = (
    *(f"networks.{name}.{size}" for name in ("main", "teacher") for size in (f"stages={_STAGES}", "features=8")),
    *(
        "data.shape=[3, 16, 16]",
        "networks.main.image=32",
        "networks.teacher.image=32",
        "networks.main.adapter={rank: 4, alpha: 3}",
    ),
)
CLEAN = (*DEPTH, "data.shape=[3, 32, 64]", "networks.main.image=null", "networks.teacher.image=null")
CLEAN += ("networks.teacher.normalise=false",)


def depth(out: Any, numbers: Numbers, spec: Any) -> Array:
    """The authors' map has no axis of channels."""
    return np.asarray(out)[:, 0]


def inputs(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    return {"x": numbers.inputs["x"], "t": numbers.inputs.get("timesteps")}


CASES = [
    Forward("ppap.unet", "ppap", DENOISER, inputs),
    Forward("ppap.experts_t100", "ppap", EXPERTS, inputs, network="expert_0", prefixes={"expert_0": "models.0."}),
    Forward("ppap.experts_t900", "ppap", EXPERTS, inputs, network="expert_1", prefixes={"expert_1": "models.1."}),
    Forward("ppap.deit", "ppap_expert_deit", VISION, inputs),
    Forward("ppap.depth", "ppap_expert_depth", DEPTH, inputs, method="see", output=depth),
    Forward(
        "midas.small",
        "ppap_expert_depth",
        CLEAN,
        inputs,
        network="teacher",
        method="see",
        prefixes={"teacher": ""},
        output=depth,
    ),
]
