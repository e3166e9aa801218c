"""DiS (Fei et al. 2024)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cases import Array, Forward
from parity_data import Numbers

SIZES = ("data.shape=[4, 8, 8]", "data.classes=10", "backbone.width=32", "backbone.half=1")
SIZES += ("conditioning.time.frequencies=32",)


def inputs(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    return {"x": numbers.inputs["x"], "t": numbers.inputs["timesteps"], "y": numbers.inputs["labels"]}


NO_SKIP = ("data.shape=[4, 4, 4]", "data.classes=10", "backbone.width=16", "backbone.half=1", "backbone.skips=false")
NO_SKIP += ("conditioning.time.frequencies=16", "backbone.norm={kind: layer_norm, eps: 1e-5, affine: true}")
NO_SKIP += ("backbone.mixer.state=4", "backbone.mixer.kernel=2")
CASES = [Forward("dis", "dis", SIZES, inputs), Forward("dis.no_skip", "dis", NO_SKIP, inputs)]
