"""PPAP (Go et al. 2022): the denoiser, two experts of a ResNet with low-rank adapters, and one of DeiT."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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


def inputs(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    return {"x": numbers.inputs["x"], "t": numbers.inputs.get("timesteps")}


CASES = [
    Forward("ppap.unet", "ppap", DENOISER, inputs),
    Forward("ppap.experts_t100", "ppap", EXPERTS, inputs, network="expert_0", prefixes={"expert_0": "models.0."}),
    Forward("ppap.experts_t900", "ppap", EXPERTS, inputs, network="expert_1", prefixes={"expert_1": "models.1."}),
    Forward("ppap.deit", "ppap_expert_deit", VISION, inputs),
]
