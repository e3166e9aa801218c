"""IBQ (Shi et al. 2024): logits, the loss, the sampler under guidance; its codebook is tested in tests/systems/ibq."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from cases import Array, Forward, Loss, Sampler
from maskgit import uniforms
from parity_data import Numbers

SIZES = (
    "data.classes=6",
    "data.tokens={vocabulary: 40, grid: [4, 4]}",
    "backbone.width=48",
    "backbone.depth=2",
    "backbone.block.mixer.heads=4",
    "backbone.block.feed_forward.multiple_of=16",
    "sampler={kind: autoregressive, guidance: {scale: 3}}",
)


def forward(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    return {"idx": numbers.inputs["idx"], "y": numbers.inputs["label"].reshape(-1)}


def loss(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    """No class is dropped."""
    y = numbers.inputs["label"].reshape(-1)
    return {"tokens": numbers.inputs["target"], "y": y, "drop": np.ones(len(y), np.float32)}


def sampler(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    y = numbers.inputs["label"].reshape(-1)
    u = uniforms(np.log(numbers.outputs["out.probs"].astype(np.float64)), numbers.outputs["out.ids"].T)
    return {"y": y, "scale": np.full(len(y), 3.0, np.float32), "u": u}


CASES = [
    Forward("ibq.gpt", "ibq", SIZES, forward, wanted=lambda numbers: numbers.outputs["out.logits"]),
    Loss("ibq.gpt", "ibq", SIZES, loss, wanted=lambda numbers: numbers.outputs["out.loss"]),
    # Tokens are the same or differ by more than this.
    Sampler("ibq.sampler", "ibq", SIZES, sampler, wanted=lambda n: n.outputs["out.ids"], tolerance=1e-9),
]
