"""GeDi (Krause et al. 2020): logits of GPT-2. The first token is the prompt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from cases import Array, Forward
from parity_data import Numbers

SMALL = ("width=64", "depth=2", "context=32", "block.mixer.heads=4")
SIZES = (
    "data.fields={tokens: {shape: [8], classes: 64}, prompt: {shape: [1], classes: 64}, "
    "prompt_mask: {shape: [1], dtype: bool}}",
    "networks.main.logit_scale=true",
    "networks.discriminator.class_tokens=[1, 2]",
    *(f"networks.{name}.{size}" for name in ("main", "discriminator") for size in SMALL),
)


def inputs(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    tokens = numbers.inputs["input_ids"]
    return {"tokens": tokens[:, 1:], "prompt": tokens[:, :1], "prompt_mask": np.ones((2, 1), bool)}


CASES = [Forward("gedi.gpt2", "gedi", SIZES, inputs)]
