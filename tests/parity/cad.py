"""Coherence-aware diffusion (Dufour et al. 2024): RIN with classes, with text and coherence, and its sampler."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from cases import Array, Forward, Sampler
from parity_data import Numbers

RIN = (
    *("data.shape=[4, 16, 16]", "data.first_stage=null", "data.class_names=null"),
    *("backbone.data_width=32", "backbone.latents=8", "backbone.layers=1", "backbone.blocks=2"),
    *("backbone.heads=2", "backbone.compute_heads=2", "backbone.patch=2"),
)
CLASS = (*RIN, "data.classes=10", "backbone.width=32")
TEXT = (*RIN, "data.fields.text.shape=[3, 10]", "data.fields.text_mask.shape=[3]")
TEXT += ("backbone.width=64", "backbone.registers=2")
SIGMOID = (*CLASS, "objective.process={kind: signal}", "sampler.steps=6", "sampler.guidance.scale=2.5")
LATENTS = "sampler.guidance=[{scale: 2.5, interval: [0.001, 1]}, "
LATENTS += "{kind: memory, scale: 1.7, absent: [class], interval: [0.001, 1]}]"


def network(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    given = {key.removeprefix("batch."): value for key, value in numbers.inputs.items()}
    told = {"x": given["y"], "t": given["gamma"], "previous": given["previous_latents"]}
    if "label" in given:
        return {**told, "y": given["label"]}
    text = {"text": given["text_tokens_embeddings"], "text_mask": given["text_tokens_mask"]}
    return {**told, **text, "coherence": given["coherence"]}


def sampler(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    given = numbers.inputs
    assert not given["batch.previous_latents"].any()
    return {"x": given["batch.y"], "y": given["batch.label"], "scale": np.full(2, 2.5, np.float32)}


def with_latents(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    return {**sampler(numbers, spec), "memory_scale": np.full(2, 1.7, np.float32)}


def both(out: Any, numbers: Numbers, spec: Any) -> Array:
    """Prediction and latents as one array."""
    return np.concatenate([np.ravel(array) for array in out.values()])


def wanted(numbers: Numbers) -> Array:
    return np.concatenate([numbers.outputs[name].ravel() for name in ("out.0", "out.1")])


def forward(name: str, spec: str, sizes: tuple[str, ...]) -> Forward:
    return Forward(name, spec, sizes, network, output=both, wanted=wanted, every_output=True)


CASES = [
    forward("cad.rin", "rin", CLASS),
    forward("cad.rin_selfcond", "rin", CLASS),
    forward("cad.rin_text_coherence", "cad", TEXT),
    Sampler("cad.sampler_ddim6", "rin", (*SIGMOID, "sampler.guidance=null"), sampler),
    Sampler("cad.sampler_ddim6_cfg", "rin", SIGMOID, sampler),
    Sampler("cad.sampler_ddim6_latents_cfg", "rin", (*SIGMOID[:-1], LATENTS), with_latents),
]
