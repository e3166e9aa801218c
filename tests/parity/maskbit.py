"""MaskBit (Weber et al. 2024): both transformers, the tokenizer, and the whole sampler."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from cases import Array, Forward, Sampler
from maskgit import logits_of, uniforms
from parity_data import Numbers

SIZES = (
    "data.classes=10",
    "data.tokens={vocabulary: 1024, grid: [4, 4]}",
    "backbone.width=64",
    "backbone.depth=2",
    "backbone.block.mixer.heads=4",
    "backbone.block.feed_forward.ratio=2",
    "sampler.steps=6",
    "sampler.randomness=4.5",
    "sampler.guidance={scale: 4, schedule: cosine, power: 2}",
)
STAGE = ("data.shape=[3, 16, 16]", "backbone.width=32", "backbone.multipliers=[1, 2]", "backbone.blocks=1")
STAGE = (*STAGE, "backbone.decoder_blocks=1", "backbone.middle_blocks=1", "backbone.bottleneck.channels=10")
ENTROPY = "backbone.bottleneck.entropy=0"  # which their code leaves out of evaluation


def forward(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    y = np.where(numbers.inputs["drop_label_mask"], 10, numbers.inputs["class_labels"])
    return {"idx": numbers.inputs["img_tokens"].reshape(2, 32), "y": y}


def by_digit(out: Array, numbers: Numbers, spec: Any) -> Array:
    return out.reshape(numbers.outputs["out"].shape)


def sampler(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    drawn = np.stack(numbers.noise[0::2]).reshape(6, 2, 32)
    gumbel = -np.log(-np.log(np.stack(numbers.noise[1::2]).astype(np.float64))).reshape(6, 2, 32)
    p = (np.arange(6) / 6) ** 2
    logits = logits_of(numbers, (3 * (1 - np.cos(np.pi * p)) / 2)).reshape(6, 2, 32, 32)
    return {
        "y": numbers.inputs["labels"],
        "scale": np.full(2, 4.0, np.float32),
        "u": uniforms(logits, drawn),
        "gumbel": gumbel.astype(np.float32),
    }


def joined(numbers: Numbers) -> Array:
    """The tokens of the last step; `maskbit.tok_decode_tokens` compares the pictures of tokens."""
    low, high = np.moveaxis(numbers.outputs["out.tokens"][-1], -1, 0)
    return low + 32 * high


MODEL = {"main": "model."}
CASES = [
    Forward("maskbit.lfqbert", "maskbit", SIZES, forward, output=by_digit),
    Forward("maskbit.bert", "maskbit", SIZES, forward, variant="embedding", output=by_digit),
    Forward(
        "maskbit.tok",
        "maskbit_tokenizer",
        STAGE,
        lambda numbers, spec: {"x": numbers.inputs["x"]},
        wanted=lambda numbers: numbers.outputs["out.dec"],
    ),
    Forward(
        "maskbit.tok",
        "maskbit_tokenizer",
        STAGE,
        lambda numbers, spec: {"x": numbers.inputs["x"]},
        wanted=lambda numbers: numbers.outputs["out.enc.1.min_encoding_indices"].reshape(1, 64),
        method="encode",
    ),
    Forward(
        "maskbit.tok",
        "maskbit_tokenizer",
        (*STAGE, ENTROPY),
        lambda numbers, spec: {"x": numbers.inputs["x"]},
        wanted=lambda numbers: numbers.outputs["out.enc.1.quantizer_loss"].reshape(1),
        every_output=True,
        output=lambda outs, numbers, spec: list(outs.values())[1],
        method="regularized",
    ),
    Forward(
        "maskbit.tok_decode_tokens",
        "maskbit_tokenizer",
        STAGE,
        lambda numbers, spec: {"z": numbers.inputs["tokens"]},
        method="decode",
    ),
    # Tokens are the same or differ by more than this.
    Sampler("maskbit.sampler", "maskbit", SIZES, sampler, wanted=joined, prefixes=MODEL, tolerance=1e-9),
]
