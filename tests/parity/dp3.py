"""DP3: its point-cloud encoder without layer norms, and its U-Net over actions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from cases import Array, Case, Forward
from parity_data import Numbers

SIZES = (
    "data.fields.x.shape=[8, 4]",
    "networks.main={kind: conditional_unet_1d, widths: [32, 64], kernel: 3, time_width: 32}",
    "data.fields.point_cloud={shape: [64, 3], axes: [point, coordinate]}",
    "networks.encoder={kind: dp3_encoder, state: null, features: 16, layer_norm: false, final_norm: false}",
)


def actions(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    time = numbers.inputs["timestep"].astype(np.float32)
    return {"x": numbers.inputs["sample"], "t": time, "observation": numbers.inputs["global_cond"]}


def points(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    return {"point_cloud": numbers.inputs["x"]}


CASES: list[Case] = [
    Forward("dp3.unet1d", "dp3", SIZES, actions),
    Forward("dp3.pointnet", "dp3", SIZES, points, network="encoder", method="encode", prefixes={"encoder": ""}),
]
