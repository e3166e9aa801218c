"""Open-MAGVIT2 (Luo et al. 2024): logits of both parts, the loss, the sampler under guidance, the tokenizer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from cases import Array, Forward, Loss, Sampler
from maskgit import uniforms
from parity_data import Numbers

SIZES = (
    "data.classes=6",
    "data.tokens={vocabulary: 256, grid: [4, 4]}",
    "backbone.width=48",
    "backbone.depth=2",
    "backbone.bits=[3, 5]",
    "backbone.part_depth=2",
    "backbone.block.mixer.heads=4",
    "backbone.block.feed_forward.multiple_of=16",
    "sampler={kind: factorized, guidance: {scale: 3}, strengths: [1.0, 0.5]}",
)
STAGE = (
    "data.shape=[3, 16, 16]",
    "networks.main.width=32",
    "networks.main.multipliers=[1, 1, 2]",
    "networks.main.blocks=1",
    "networks.main.decoder_blocks=1",
    "networks.main.middle_blocks=1",
    "networks.main.bottleneck.channels=6",
    "networks.discriminator=null",
    "networks.perceptual=null",
    "objective={kind: autoencoding}",
    "train.optimizers={}",
)


def joined(pre: Array, post: Array) -> Array:
    return pre + 8 * post


def forward(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    return {"idx": joined(numbers.inputs["pre"], numbers.inputs["post"]), "y": numbers.inputs["label"].reshape(-1)}


def loss(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    """No class is dropped."""
    given = forward(numbers, spec)
    return {"tokens": given["idx"], "y": given["y"], "drop": np.ones(len(given["y"]), np.float32)}


def sampler(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    y, out = numbers.inputs["label"].reshape(-1), numbers.outputs
    given = {
        f"u_{k}": uniforms(np.log(out[f"out.probs_{part}"].astype(np.float64)), out[f"out.{part}"].T)
        for k, part in enumerate(("pre", "post"))
    }
    return {"y": y, "scale": np.full(len(y), 3.0, np.float32), **given}


def image(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    return {"x": numbers.inputs["x"]}


def second(outs: Any, numbers: Numbers, spec: Any) -> Array:
    return list(outs.values())[1]


CASES = [
    Forward("open_magvit2.gpt", "open_magvit2", SIZES, forward, wanted=lambda numbers: numbers.outputs["out.pre"]),
    Forward(
        "open_magvit2.gpt",
        "open_magvit2",
        SIZES,
        forward,
        wanted=lambda numbers: numbers.outputs["out.post"],
        every_output=True,
        output=second,
    ),
    Loss("open_magvit2.gpt", "open_magvit2", SIZES, loss, wanted=lambda numbers: numbers.outputs["out.loss"]),
    # Tokens are the same or differ by more than this.
    Sampler(
        "open_magvit2.sampler",
        "open_magvit2",
        SIZES,
        sampler,
        wanted=lambda numbers: joined(numbers.outputs["out.pre"], numbers.outputs["out.post"]),
        tolerance=1e-9,
    ),
    Forward(
        "open_magvit2.tokenizer",
        "open_magvit2_tokenizer",
        STAGE,
        image,
        wanted=lambda numbers: numbers.outputs["out.decoded"],
    ),
    Forward(
        "open_magvit2.tokenizer",
        "open_magvit2_tokenizer",
        STAGE,
        image,
        wanted=lambda numbers: numbers.outputs["out.indices"].reshape(1, 16),
        method="encode",
    ),
    Forward(
        "open_magvit2.tokenizer",
        "open_magvit2_tokenizer",
        STAGE,
        image,
        wanted=lambda numbers: (0.25 * numbers.outputs["out.commit"] + 0.1 * numbers.outputs["out.entropy"]).reshape(1),
        every_output=True,
        output=second,
        method="regularized",
    ),
]
