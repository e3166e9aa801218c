"""LION (Zeng et al. 2022), whose prior of global latents DC3DO classifies with: both priors of one class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cases import Array, Case, Forward
from parity_data import Numbers

GLOBAL = ("data.fields.x.shape=[12]", "conditioning.time.frequencies=16", "backbone.width=32", "backbone.depth=2")
DOWN = (
    "[{voxels: {width: 8, blocks: 2, side: 4}, points: 10, radius: 1.0, neighbours: 5, widths: [8, 16]}, "
    "{voxels: {width: 16, side: 3}, points: 6, radius: 1.6, neighbours: 4, widths: [16, 24]}, "
    "{points: 4, radius: 3.0, neighbours: 4, widths: [16, 16]}]"
)
UP = (
    "[{widths: [16, 16], voxels: {width: 16, blocks: 2, side: 3}}, {widths: [16], voxels: {width: 16, side: 3}}, "
    "{widths: [16, 8], voxels: {width: 8, blocks: 2, side: 4}}]"
)
LOCAL = ("data.fields.x.shape=[16, 4]", "data.fields.style.shape=[12]", "conditioning.time.frequencies=16")
LOCAL += ("backbone.style=12", f"backbone.down={DOWN}", f"backbone.up={UP}")


def of_shapes(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    return {"x": numbers.inputs["x"][..., 0, 0], "t": numbers.inputs["t"]}


def of_points(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    given = numbers.inputs
    return {"x": given["x"].reshape(-1, 16, 4), "t": given["t"], "style": given["condition_input"]}


CASES: list[Case] = [
    Forward(
        "lion.global_prior",
        "dc3do",
        GLOBAL,
        of_shapes,
        variant="lion",
        wanted=lambda numbers: numbers.outputs["out"][..., 0, 0],
    ),
    Forward(
        "lion.local_prior",
        "dc3do_points",
        LOCAL,
        of_points,
        variant="lion",
        wanted=lambda numbers: numbers.outputs["out"].reshape(-1, 16, 4),
    ),
]
