"""MaskGIT-pytorch (Besnier et al. 2025): the transformer, and its confidence and Halton samplers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from cases import Array, Forward, Sampler
from parity_data import Numbers

SIZES = (
    "data.classes=10",
    "data.tokens={vocabulary: 32, grid: [4, 4]}",
    "backbone.width=64",
    "backbone.depth=2",
    "backbone.block.mixer.heads=4",
    "backbone.block.feed_forward.hidden=256",
    "sampler.steps=6",
)


def forward(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    y = np.where(numbers.inputs["drop_label"], 10, numbers.inputs["y"])
    return {"idx": numbers.inputs["x"].reshape(2, 16), "y": y}


def uniforms(logits: Array, drawn: Array) -> Array:
    """f32[N, B, T]: numbers in the middle of the shares of the tokens that the authors drew."""
    p = np.exp(logits - logits.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    index = drawn[..., None]
    upper = np.take_along_axis(np.cumsum(p, -1), index, -1)
    return (upper - np.take_along_axis(p, index, -1) / 2)[..., 0].astype(np.float32)


def logits_of(numbers: Numbers, weight: Array) -> Array:
    """f64[N, B, T, ..., V]: the authors' logits, guided with `weight` [N] of the difference."""
    cond, null = np.split(numbers.outputs["out.logits"].astype(np.float64), 2, axis=1)
    return cond + weight.reshape(-1, *(1,) * (cond.ndim - 1)) * (cond - null)


def confidence(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    drawn = np.stack(numbers.noise[0::2]).reshape(6, 2, 16)
    logits = logits_of(numbers, 3 * np.arange(6) / 5)
    gumbel = np.stack(numbers.noise[1::2]).astype(np.float32)
    return {
        "y": numbers.inputs["labels"],
        "scale": np.full(2, 4.0, np.float32),
        "u": uniforms(logits, drawn),
        "gumbel": gumbel,
    }


def halton(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    drawn = np.stack(numbers.noise[1:]).reshape(6, 2, 16)
    sharpness = np.linspace(1, 1.2, 6) * np.where(np.arange(6) < 1, 0.5, 1)
    logits = logits_of(numbers, np.full(6, 2.0)) * sharpness.reshape(-1, 1, 1, 1)
    return {
        "y": numbers.inputs["labels"],
        "scale": np.full(2, 3.0, np.float32),
        "u": uniforms(logits, drawn),
        "rotation": numbers.noise[0],
    }


def tokens(numbers: Numbers) -> Array:
    return numbers.outputs["out"].reshape(2, 16)


CONFIDENCE = "sampler={kind: confidence, steps: 6, redraw: true, guidance: {scale: 4, schedule: linear}}"
HALTON = "sampler={kind: halton, steps: 6, sharpness: [1, 1.2], warmup: 1, guidance: {scale: 3}}"
CASES = [
    Forward("maskgit_pt", "maskgit", SIZES, forward),
    # Tokens are the same or differ by more than this.
    Sampler(
        "maskgit_pt.sampler_confidence", "maskgit", (*SIZES, CONFIDENCE), confidence, wanted=tokens, tolerance=1e-9
    ),
    Sampler("maskgit_pt.sampler_halton", "maskgit", (*SIZES, HALTON), halton, wanted=tokens, tolerance=1e-9),
]
