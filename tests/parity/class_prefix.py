"""Class-prefixed text models (Kumar et al. 2020): GPT-2, BERT and BART as Hugging Face's transformers compute them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from cases import Array, Forward, Sampler
from parity_data import Numbers

BLOCKS = ("networks.main.width=32", "networks.main.block.mixer.heads=4", "networks.main.block.feed_forward.ratio=2")
GPT2 = (
    "data.fields={tokens: {shape: [8], classes: 64, medium: text, end: 2}}",
    *BLOCKS[:2],
    *("networks.main.depth=2", "networks.main.context=16", "networks.main.class_tokens=[[4, 10], [5]]"),
)
BERT = (
    "data.fields={tokens: {shape: [8], classes: 64, medium: text, end: 2}}",
    *BLOCKS,
    "networks.main.depth=2",
    "networks.main.embedding={mask: 3, start: 1, class_tokens: [4, 5], places: 16, segments: 2}",
)
SEGMENTS = (*BERT[:-1], "networks.main.embedding={mask: 3, start: 1, class_segments: true, places: 16, segments: 3}")
SEGMENTS += ("data.classes=3", "data.class_names=null")
BART = (
    "data.fields={tokens: {shape: [8], classes: 64, medium: text, end: 2}}",
    *BLOCKS,
    *("networks.main.encoder_depth=2", "networks.main.decoder_depth=2", "networks.main.context=16"),
    "networks.main.class_tokens=[[4, 10], [5, 11]]",
    "conditioning.source={kind: masked_text, mask: 3, end: 2, share: 0}",
)

BEAMS = "{kind: beam_search, beams: 3, length_penalty: 1.5, no_repeat: 2, never: [1]}"


def prefixed(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    return {"tokens": numbers.inputs["input_ids"][:, 2:], "y": np.array([0, 1])}


def masked(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    return {"idx": numbers.inputs["input_ids"][:, 2:], "y": np.array([0, 1])}


def of_segments(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    return {"idx": numbers.inputs["input_ids"][:, 1:], "y": numbers.inputs["token_type_ids"][:, 0]}


def restored(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    seen = numbers.inputs["attention_mask"][:, 3:].astype(bool)
    told = {"y": np.array([0, 1]), "source": numbers.inputs["input_ids"][:, 3:], "source_mask": seen}
    given = numbers.inputs.get("decoder_input_ids")
    return told if given is None else {**told, "tokens": given[:, 1:]}


def searched(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    return {**restored(numbers, spec), "y": np.array([0, 1, 0, 1, 1])}


def drawn(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    return {**restored(numbers, spec), "u": np.stack(numbers.noise)}


CASES = [
    Forward("gpt2.class_prefix", "class_prefix_gpt2", GPT2, prefixed),
    Forward(
        *("bert.masked_lm", "class_prefix_bert", BERT, masked), wanted=lambda numbers: numbers.outputs["out"][:, 2:]
    ),
    Forward(
        *("bert.segments", "class_prefix_bert", SEGMENTS, of_segments, "cbert"),
        wanted=lambda numbers: numbers.outputs["out"][:, 1:],
    ),
    Forward("bart.seq2seq", "class_prefix_bart", BART, restored),
    Sampler("bart.sampled", "class_prefix_bart", (*BART, "sampler={kind: autoregressive}"), drawn),
    Sampler("bart.beams", "class_prefix_bart", (*BART, f"sampler={BEAMS}"), searched),
]
