"""VAR (Tian et al. 2024): the transformer and what it is told, the sampler under guidance, the tokenizer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from cases import Array, Forward, Sampler
from maskgit import uniforms
from parity_data import Numbers

SCALES = (1, 2, 3, 4)
SIZES = (
    "data.classes=10",
    "data.tokens={vocabulary: 32, grid: [30]}",
    "networks.main.width=64",
    "networks.main.depth=2",
    "networks.main.latent=8",
    "networks.main.scales=[1, 2, 3, 4]",
    "networks.main.block.mixer.heads=4",
    "networks.quantizer.codebook={size: 32, channels: 8, scales: [1, 2, 3, 4]}",
)
STAGE = (
    "data.shape=[3, 64, 64]",
    "backbone.width=32",
    "backbone.bottleneck={kind: multi_scale_codebook, size: 32, channels: 8, scales: [1, 2, 3, 4]}",
)
BOTH = {"main": "var.", "quantizer": "vae."}
TOKENIZER = {"main": "vae."}


def forward(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    return {"inputs": numbers.outputs["out.var_input"], "y": numbers.inputs["label_B"]}


def image(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    return {"x": numbers.inputs["img"]}


def guided(numbers: Numbers, cfg: float) -> list[Array]:
    """The authors' guided logits of each scale f64[B, n n, V]."""
    cond, null = np.split(numbers.outputs["out.logits"].astype(np.float64), 2)
    parts = []
    for k, stop in enumerate(np.cumsum(np.square(SCALES))):
        start, t = stop - SCALES[k] ** 2, cfg * k / 3
        parts.append((1 + t) * cond[:, start:stop] - t * null[:, start:stop])
    return parts


def greedy(numbers: Numbers) -> Array:
    return np.concatenate([logits.argmax(-1) for logits in guided(numbers, 4.0)], axis=1)


def drawn(numbers: Numbers) -> Array:
    return np.concatenate([noise.reshape(2, -1) for noise in numbers.noise], axis=1)


def greedy_inputs(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    return {"y": numbers.inputs["label_B"], "scale": np.full(2, 5.0, np.float32)}


def filtered(logits: Array) -> Array:
    """Logits of the ten likeliest tokens, and of those the likeliest that together reach 0.9."""
    ordered = np.argsort(-logits, axis=-1)
    ranked = np.take_along_axis(logits, ordered, -1)
    p = np.exp(ranked - ranked.max(-1, keepdims=True)) * (np.arange(logits.shape[-1]) < 10)
    p /= p.sum(-1, keepdims=True)
    ranked = np.where((np.cumsum(p, -1) - p <= 0.9) & (p > 0), ranked, -1e30)
    out = np.empty_like(logits)
    np.put_along_axis(out, ordered, ranked, -1)
    return out


def drawn_inputs(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    logits = np.concatenate([filtered(part) for part in guided(numbers, 1.5)], axis=1)
    u = uniforms(logits[None], drawn(numbers)[None])[0]
    return {"y": numbers.inputs["label_B"], "scale": np.full(2, 2.5, np.float32), "u": u}


def mixed_inputs(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    gumbel = np.concatenate(numbers.noise, axis=1)
    return {"y": numbers.inputs["label_B"], "scale": np.full(2, 2.5, np.float32), "gumbel": gumbel}


def pixels(numbers: Numbers) -> Array:
    return numbers.outputs["out"] * 2 - 1


GREEDY = "sampler={kind: next_scale, temperature: 0, guidance: {scale: 5, schedule: linear}}"
DRAWN = "sampler={kind: next_scale, top_k: 10, top_p: 0.9, guidance: {scale: 2.5, schedule: linear}}"
SMOOTH = "sampler={kind: next_scale, smooth: true, top_k: 10, top_p: 0.9, guidance: {scale: 2.5, schedule: linear}}"
CASES = [
    Forward("var.fwd", "var", SIZES, forward, prefixes={"main": "var."}),
    Forward(
        "var.fwd",
        "var",
        SIZES,
        lambda numbers, spec: {"tokens": numbers.outputs["out.idx"]},
        wanted=lambda numbers: numbers.outputs["out.var_input"],
        network="quantizer",
        method="scale_inputs",
        prefixes={"quantizer": "vae."},
    ),
    Forward(
        "var.vqvae",
        "vq_multi_scale",
        STAGE,
        image,
        wanted=lambda numbers: numbers.outputs["out.idx"],
        method="encode",
        tolerance=1e-9,
    ),
    Forward(
        "var.vqvae",
        "vq_multi_scale",
        STAGE,
        image,
        wanted=lambda numbers: numbers.outputs["out.fhat"],
        tolerance=4e-5,
        why="pixels are bounded to 1, a quarter of what the decoder gives",
    ),
    Sampler("var.sampler_smooth", "var", (*SIZES, SMOOTH), mixed_inputs, prefixes=BOTH),
    # Tokens are the same or differ by more than this.
    Sampler(
        "var.sampler_greedy_cfg", "var", (*SIZES, GREEDY), greedy_inputs, wanted=greedy, tolerance=1e-9, prefixes=BOTH
    ),
    Sampler("var.sampler_topk", "var", (*SIZES, DRAWN), drawn_inputs, wanted=drawn, tolerance=1e-9, prefixes=BOTH),
    # The picture of these tokens, which the sampler of the authors ends with.
    Forward(
        "var.sampler_topk",
        "vq_multi_scale",
        STAGE,
        lambda numbers, spec: {"z": drawn(numbers)},
        wanted=pixels,
        method="decode",
        tolerance=1e-4,
        why="the authors' rounding error is 2e-5 of these pixels, which are bounded to 1",
        prefixes=TOKENIZER,
    ),
]
