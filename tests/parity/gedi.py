"""GeDi (Krause et al. 2020): logits of GPT-2. The first token is the prompt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from cases import Array, Forward
from parity_data import Numbers

BLOCK = (
    "{mixer: {kind: attention, heads: 4, causal: true}, feed_forward: {kind: gelu_mlp, ratio: 4}, "
    "norm: {kind: layer_norm, eps: 1e-5, affine: true}, condition: {kind: in_context}}"
)
SIZES = (
    "data.fields={tokens: {shape: [8], classes: 64}, prompt: {shape: [1], classes: 64}, "
    "prompt_mask: {shape: [1], dtype: bool}}",
    "networks.main={kind: class_language_model, width: 64, depth: 2, context: 32, conditions: [prompt], frozen: true, "
    f"block: {BLOCK}}}",
    "networks.discriminator.class_tokens=[1, 2]",
    *(f"networks.discriminator.{size}" for size in ("width=64", "depth=2", "context=32", "block.mixer.heads=4")),
)


def inputs(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    tokens = numbers.inputs["input_ids"]
    return {"tokens": tokens[:, 1:], "prompt": tokens[:, :1], "prompt_mask": np.ones((2, 1), bool)}


CASES = [Forward("gedi.gpt2", "gedi", SIZES, inputs)]
