"""Conditional neural tomography: densities at points of patients with codes, scaled and shifted or shifted alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cases import Array, Forward
from parity_data import Numbers

SMALL = ("data.classes=4", "data.fields={x: {shape: [1, 4, 4]}, angle: {shape: [1]}}", "networks.main.width=32")
SMALL = (
    *SMALL,
    "networks.main.depth=2",
    "networks.main.code_dim=8",
    "networks.main.omega=30",
    "networks.main.points=16",
    "sampler.chunk=16",
)


def at_points(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    return {"points": numbers.inputs["coords"], "y": numbers.inputs["idx"]}


CASES = [
    Forward(f"cond_cbnt.siren.{variant}", "cond_cbnt", SMALL, at_points, variant=variant, method="density_at")
    for variant in ("film", "additive")
]
