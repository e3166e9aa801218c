"""MaskGIT (Chang et al. 2022) as in JAX: the transformer, and parallel decoding."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from cases import Array, Forward, Sampler
from maskgit import uniforms
from parity_data import Numbers

SIZES = (
    "backbone.width=32",
    "backbone.depth=2",
    "backbone.block.mixer.heads=4",
    "backbone.block.feed_forward.ratio=2",
)
# 64 rows: tokens, labels and the mask.
FORWARD = (*SIZES, "data.tokens={vocabulary: 16, grid: [4, 4]}", "data.classes=47", "backbone.embedding.labels=47")
SAMPLER = (*SIZES, "data.tokens={vocabulary: 32, grid: [4, 4]}", "data.classes=31", "backbone.embedding.labels=31")
SAMPLER = (*SAMPLER, "sampler.steps=6")


def forward(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    ids = numbers.inputs["input_ids"].astype(np.int64)
    return {"idx": ids[:, 1:], "y": ids[:, 0] - spec.data.tokens.vocabulary}


def sampler(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    drawn, gumbel = np.stack(numbers.noise[0::2]), np.stack(numbers.noise[1::2])
    return {
        "y": numbers.inputs["inputs"][:, 0].astype(np.int64) - spec.data.tokens.vocabulary,
        "u": uniforms(numbers.outputs["out.logits"].astype(np.float64), drawn.astype(np.int64))[:, :, 1:],
        "gumbel": gumbel[:, :, 1:],
    }


CASES = [
    # Their output holds the logits of the class's place, too.
    Forward("maskgit_jax", "maskgit_jax", FORWARD, forward, wanted=lambda numbers: numbers.outputs["out"][:, 1:]),
    # Tokens are the same or differ by more than this.
    Sampler(
        "maskgit_jax.sampler",
        "maskgit_jax",
        SAMPLER,
        sampler,
        wanted=lambda numbers: numbers.outputs["out"][:, -1, 1:],
        tolerance=1e-9,
    ),
]
