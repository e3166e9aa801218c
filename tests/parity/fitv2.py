"""FiTv2 (Wang et al. 2024): the network on padded sequences and on images of other sizes, its loss, two samplers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from cases import Array, Forward, Loss, Sampler
from parity_data import Numbers

SIZES = ("data.classes=10", "data.class_names=null", "data.first_stage=null", "backbone.width=64", "backbone.depth=3")
SIZES += ("backbone.block.mixer.heads=4", "backbone.block.condition.rank=16")
SEQUENCES = (*SIZES, "data.shape=[16, 16]")
ROWS, COLUMNS = 5, 6
IMAGES = (*SIZES, f"data.shape=[4, {2 * ROWS}, {2 * COLUMNS}]")


def size(numbers: Numbers) -> Array:
    """Rows and columns of the real patches, whose places the authors' code is given: [column, row]."""
    grid, real = numbers.inputs["grid"], numbers.inputs["mask"] > 0
    return np.stack([[row[m].max() + 1, column[m].max() + 1] for (column, row), m in zip(grid, real, strict=True)])


def padded(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    given = numbers.inputs
    sides = size(numbers).astype(np.float32)
    return {"x": given["x"].swapaxes(1, 2), "t": given["t"], "y": given["y"], "size": sides}


def images(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    tiles = numbers.inputs["x"].reshape(-1, ROWS, COLUMNS, 4, 2, 2).transpose(0, 3, 1, 4, 2, 5)
    whole = tiles.reshape(-1, 4, 2 * ROWS, 2 * COLUMNS)
    return {"x": whole, "t": numbers.inputs["t"], "y": numbers.inputs["y"]}


def patches(out: Array, numbers: Numbers, spec: Any) -> Array:
    tiles = out.reshape(-1, 4, ROWS, 2, COLUMNS, 2).transpose(0, 2, 4, 1, 3, 5)
    return tiles.reshape(-1, ROWS * COLUMNS, 16)


def tokens(out: Array, numbers: Numbers, spec: Any) -> Array:
    return out.swapaxes(1, 2)


def loss(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    (u,), noise = numbers.noise, numbers.inputs["z"].swapaxes(1, 2)
    given = {"x": numbers.inputs["x"].swapaxes(1, 2), "y": numbers.inputs["y"], "size": size(numbers)}
    return {**given, "u": u, "noise": noise, "drop": np.ones(len(u), np.float32)}


def sampler(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    sides = size(numbers).astype(np.float32)
    given = {"x": numbers.inputs["z"].swapaxes(1, 2), "y": numbers.inputs["y"], "size": sides}
    return {**given, "scale": np.full(2, 1.5, np.float32)}


def extrapolated(method: str, separate: str = "true") -> Forward:
    how = f"backbone.extrapolation={{method: {method}, trained: 4, separate: {separate}}}"
    return Forward(f"fitv2.{method}", "fitv2", (*IMAGES, how), images, output=patches)


def sampled(name: str, how: str) -> Sampler:
    guided = f"sampler={{{how}, guidance: {{scale: 1.5, channels: 12}}}}"
    return Sampler(f"fitv2.{name}", "fitv2", (*SEQUENCES, guided), sampler, variant="XL/2-sequences", output=tokens)


CASES = [
    Forward("fitv2", "fitv2", SEQUENCES, padded, variant="XL/2-sequences", output=tokens),
    extrapolated("ntk"),
    extrapolated("ntk_by_area"),
    extrapolated("yarn", separate="false"),
    Loss("fitv2.loss", "fitv2", SEQUENCES, loss, variant="XL/2-sequences"),
    sampled("sampler_euler", "kind: euler, steps: 4"),
    sampled("sampler_heun2", "kind: heun, steps: 3"),
]
