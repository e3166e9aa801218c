"""Infinity (Han et al. 2024): the transformer told a text, and the sampler under guidance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from cases import Array, Forward, Sampler
from parity_data import Numbers

from latentc.ir.ops.image import resizing

SCALES, BITS = (1, 2, 4), 8
SIZES = (
    "data={kind: npz, path: train.npz, shape: [8, 4, 4], fields: {caption: {shape: [6, 128]}, caption_mask: "
    "{shape: [6], dtype: bool}}}",
    *("networks.main.width=64", "networks.main.depth=4", "networks.main.scales=[1, 2, 4]", "networks.main.latent=8"),
    *(
        "networks.main.grid=null",
        "networks.main.chunks=2",
        "networks.main.block.mixer.heads=2",
        "networks.main.block.feed_forward.ratio=1",
    ),
)


def text(numbers: Numbers) -> dict[str, Array]:
    """Features of all texts, which the authors' code takes in one row, padded to the longest possible."""
    lengths, packed = numbers.inputs["lens"], numbers.inputs["text"]
    caption = np.zeros((len(lengths), 6, packed.shape[1]), np.float32)
    mask = np.arange(6) < lengths[:, None]
    caption[mask] = packed
    return {"caption": caption, "caption_mask": mask}


def inputs(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    given = text(numbers)
    return {"inputs": numbers.inputs["x"], **given, "caption_given": np.ones(len(given["caption"]), np.float32)}


def draws(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    """Uniforms in the middle of the share of each bit that the authors drew."""
    u, start = [], 0
    for side, noise in zip(SCALES, numbers.noise, strict=True):
        p = numbers.outputs["out.probs"][start : start + noise.size].astype(np.float64)
        start += noise.size
        u.append(np.where(noise.ravel() == 1, p / 2, (1 + p) / 2).reshape(2, side * side, BITS))
    scale = np.full(2, 3.0, np.float32)
    return {**text(numbers), "scale": scale, "u": np.concatenate(u, axis=1).astype(np.float32)}


def latents(numbers: Numbers) -> Array:
    """The sum of the codes that the authors drew, enlarged to the last scale."""
    found = np.zeros((2, BITS, SCALES[-1], SCALES[-1]))
    for k, side in enumerate(SCALES):
        matrix = resizing(side, SCALES[-1], "bilinear") if side < SCALES[-1] else np.eye(side)
        found += matrix @ numbers.outputs[f"out.codes.{k}"][:, :, 0] @ matrix.T
    return found


SAMPLER = (
    *("sampler.temperature=[1.0, 0.8, 0.7]", "sampler.weights=[1.0, 1.0, 0.5]", "sampler.guidance={scale: 3.0}"),
)
CASES = [
    Forward("infinity.transformer", "infinity", SIZES, inputs, wanted=lambda n: n.outputs["out.logits"]),
    Sampler("infinity.sampler", "infinity", (*SIZES, *SAMPLER), draws, wanted=latents),
]
