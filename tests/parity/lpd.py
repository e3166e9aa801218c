"""LPD (Zhang et al. 2025): logits of queries, the loss, the sampler under guidance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from cases import Array, Forward, Loss, Sampler
from parity_data import Numbers

SIZES = (
    "data.classes=10",
    "data.tokens={vocabulary: 64, grid: [4, 4]}",
    "backbone.width=64",
    "backbone.depth=2",
    "backbone.block.mixer.heads=4",
    "backbone.block.norm.eps=1e-5",  # of the bare class, not of the published models
    "objective.groups=[[2, 4, 10]]",
    "sampler={kind: parallel_decoding, order: random, groups: [1, 2, 4, 9], temperature: 0, "
    "guidance: {scale: 3, schedule: linear}}",
)


def forward(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    """The authors were given the ends of groups as their sizes and added them up: no token is known, and queries see
    those of lower levels among the first twelve."""
    ends = np.concatenate([[0, 1], np.cumsum(numbers.inputs["group_sizes"]) + 1])
    counts = np.diff(ends)
    levels = np.concatenate([np.repeat(np.arange(5) * 2, counts[:5]), np.repeat(np.arange(5) * 2 + 1, counts[1:])])[:16]
    earlier = (levels[None] < levels[:, None]) & (np.arange(16) < counts[:-1].sum())
    mask = np.eye(33, dtype=bool)  # a row that sees nothing has no softmax
    mask[17:, 17:] = (levels[None] == levels[:, None]) | earlier
    return {
        "idx": numbers.inputs["x"],
        "order": np.stack(numbers.noise),
        "mask": np.broadcast_to(mask, (2, 33, 33)),
        "y": numbers.inputs["labels"],
    }


def sampler(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    scale = np.full(2, 3.0, np.float32)
    return {"y": numbers.inputs["labels"], "scale": scale, "order": numbers.inputs["orders"]}


LOSS = (
    "data.classes=10",
    "data.tokens={vocabulary: 64, grid: [4, 4]}",
    "backbone.width=32",
    "backbone.depth=2",
    "backbone.block.mixer.heads=2",
    "objective.groups=[[1, 2, 4, 9]]",
    "sampler={kind: parallel_decoding, order: random, steps: 4}",
)


def loss(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    labels, keep = numbers.inputs["labels"], np.ones(2, np.float32)
    order, division = numbers.noise[0], np.zeros(2, np.int64)
    return {"tokens": numbers.inputs["x"], "y": labels, "drop": keep, "order": order, "division": division}


CASES = [
    Forward("lpd.train_fwd", "lpd", SIZES, forward, wanted=lambda numbers: numbers.outputs["out.logits"]),
    Loss("lpd.loss", "lpd", LOSS, loss),
    # Tokens are the same or differ by more than this.
    Sampler("lpd.sampler_greedy", "lpd", SIZES, sampler, tolerance=1e-9),
]
