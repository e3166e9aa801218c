"""RARM (Blattmann et al. 2022): its network, loss and sampler, by CompVis/retrieval-augmented-diffusion-models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from cases import Array, Forward, Loss, Sampler
from parity_data import Numbers

SIZES = (
    "data={kind: npz, path: train.npz, tokens: {vocabulary: 17, grid: [4, 2]}, fields: {clip: {shape: [8]}}}",
    *("backbone.width=16", "backbone.depth=2", "backbone.block.mixer.heads=2", "backbone.block.feed_forward.hidden=64"),
    "conditioning.neighbours={kind: neighbours, field: clip, count: 4}",
    "sampler={kind: autoregressive, top_k: 5, guidance: {scale: 2.0}}",
)


def forward(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    return {"idx": numbers.inputs["tokens"][:, :-1], "neighbours": numbers.inputs["neighbours"]}


def batch(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    return numbers.inputs


def draws(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    return {**numbers.inputs, "scale": np.full(2, 2.0, np.float32)}


def rows(out: Any, numbers: Numbers, spec: Any) -> Array:
    """Tokens [B, T]."""
    return np.asarray(out).reshape(2, -1)


CASES = [
    Forward("rarm.gpt", "rarm", SIZES, forward, wanted=lambda numbers: numbers.outputs["out.logits"]),
    Loss("rarm.gpt", "rarm", SIZES, batch, wanted=lambda numbers: numbers.outputs["out.loss"]),
    Sampler("rarm.gpt", "rarm", SIZES, draws, wanted=lambda numbers: numbers.outputs["out.sample"], output=rows),
]
