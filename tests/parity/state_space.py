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


CASES = [Forward("dis", "dis", SIZES, inputs)]
