"""Text encoders: T5's and CLIP's as Hugging Face's transformers compute them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cases import Array, Forward
from parity_data import Numbers

BLOCK = "networks.main.block"
T5 = (
    "data.fields={tokens: {shape: [20], classes: 40, medium: text, end: 1}, tokens_mask: {shape: [20], dtype: bool}}",
    *("networks.main.width=32", "networks.main.depth=2", "networks.main.relative={buckets: 8, furthest: 16}"),
    f"{BLOCK}.mixer={{kind: t5_attention, heads: 4, head_width: 8, bias: false}}",
)
GATED = (*T5, f"{BLOCK}.feed_forward.hidden=48")
RELU = (*T5, f"{BLOCK}.feed_forward={{kind: relu_mlp, ratio: 1.5, bias: false}}")
CLIP = (
    "data.fields={tokens: {shape: [9], classes: 40, medium: text, end: 39}}",
    *("networks.main.width=32", "networks.main.depth=2", f"{BLOCK}.mixer.heads=4"),
)


def text(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    found = {"tokens": numbers.inputs["input_ids"]}
    mask = numbers.inputs.get("attention_mask")
    return found if mask is None else {**found, "mask": mask}


CASES = [
    Forward("t5.gated", "t5", GATED, text, method="encode"),
    Forward("t5.relu", "t5", RELU, text, method="encode"),
    Forward("clip_text.features", "clip_text", CLIP, text, method="encode", names="transformers"),
    Forward(
        "clip_text.vector",
        "clip_text",
        (*CLIP, "networks.main.projection=24"),
        text,
        "L/14-vector",
        method="encode",
        names="transformers",
    ),
]
