"""xAR (Ren et al. 2025): the loss of cells at times of their own, and the sampler of cell after cell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from cases import Array, Loss, Sampler
from parity_data import Numbers

SIZES = (
    *("backbone.width=48", "backbone.depth=1", "backbone.decoder_depth=1"),
    *("backbone.block.mixer={kind: attention, heads: 2}", "backbone.block.feed_forward.dropout=0"),
)
THREE = ("sampler.solver.steps=3", "sampler.guidance.scale=3")


def whole(cells: list[Array]) -> Array:
    """[B, 16, 16, 16] of four cells [B, 64, 16], row by row."""
    grid = np.stack(cells, axis=1).reshape(-1, 2, 2, 8, 8, 16)
    return grid.transpose(0, 5, 1, 3, 2, 4).reshape(-1, 16, 16, 16)


def loss(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    given, noise = numbers.inputs, numbers.noise[1:]
    t = given["time"].astype(np.float64).reshape(4, 2).T
    u, keep = np.log(t / (1 - t)), np.ones(2, np.float32)
    return {"x": given["imgs"], "y": given["labels"], "u": u, "noise": whole(list(noise)), "drop": keep}


def sampler(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    starts = [numbers.noise[3 * cell] for cell in range(4)]
    kicks = [np.stack(numbers.noise[3 * cell + 1 : 3 * cell + 3]) for cell in range(4)]
    noise = {f"noise_{i}": z.reshape(2, 2, 8, 8, 16).transpose(0, 1, 4, 2, 3) for i, z in enumerate(kicks)}
    return {"x": whole(starts), "y": numbers.inputs["labels"], "scale": np.full(2, 3.0, np.float32), **noise}


CASES = [
    Loss("xar.loss", "xar", SIZES, loss),
    Sampler("xar.sampler", "xar", (*SIZES, *THREE), sampler, tolerance=1e-5),
]
