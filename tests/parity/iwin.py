"""The classifier of Iwin (Huo and Li 2025)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cases import Array, Forward
from parity_data import Numbers

SIZES = ("data.shape=[3, 64, 64]", "data.classes=10", "backbone.width=16", "backbone.multipliers=[1, 2]")
SIZES += ("backbone.depths=[2, 2]", "backbone.heads=[2, 4]", "backbone.positions={kind: learned}")
SIZES += ("backbone.block.mixer.size=4", "backbone.block.mixer.mixer.heads=2")


def inputs(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    return numbers.inputs


CASES = [Forward("iwin", "iwin_classifier", SIZES, inputs)]
