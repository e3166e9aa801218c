"""STARFlow (Gu et al. 2025): latents, the loss, the inverse, alone, guided, and by Jacobi iterations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from cases import Array, Forward, Loss, Sampler
from parity_data import Numbers

SIZES = (
    "data.shape=[4, 8, 8]",
    "data.first_stage=null",
    "data.fields.text.shape=[4, 32]",
    "data.fields.text_mask.shape=[4]",
    "backbone.width=128",
    "backbone.flows=3",
    "backbone.depths=[1, 1, 2]",
    "backbone.block.mixer.heads=2",
)


def told(numbers: Numbers) -> Mapping[str, Array]:
    text = numbers.inputs["y"][:2]
    return {"text": text, "text_mask": np.ones(text.shape[:2], bool)}


def inputs(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    return {"x": numbers.inputs["x"], **told(numbers)}


def loss_inputs(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    """The authors' loss is of data with its noise."""
    x = numbers.inputs["x"]
    return {**inputs(numbers, spec), "drop_text": np.ones(2), "noise": np.zeros_like(x)}


def loss(numbers: Numbers) -> Array:
    log_dets = [numbers.outputs[f"out.logdets.{i}"].mean() for i in range(3)]
    return np.asarray(0.5 * (numbers.outputs["out.z"] ** 2).mean() - sum(log_dets))


def sampled(name: str, scale: float | None, options: str = "", kind: str = "flow_inverse") -> Sampler:
    """The authors' guidance w is the scale 1 + w."""

    def given(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
        z = numbers.inputs["x"].transpose(0, 2, 3, 1).reshape(2, 64, 4)
        return {"z": z, **told(numbers), "scale": np.full(2, scale or 0, np.float32)}

    guidance = f", guidance: {{scale: {scale}}}" if scale else ", guidance: null"
    return Sampler(f"starflow.{name}", "starflow", (*SIZES, f"sampler={{kind: {kind}{guidance}{options}}}"), given)


CASES = [
    Forward(
        "starflow.fwd",
        "starflow",
        SIZES,
        inputs,
        wanted=lambda numbers: numbers.outputs["out.outputs.3"].reshape(2, 64, 4),
    ),
    Loss("starflow.fwd", "starflow", SIZES, loss_inputs, wanted=loss),
    sampled("reverse", None),
    sampled("sampler_reverse_guided2", 3),
    sampled("sampler_reverse_guided3_a", 4, ", attention_temperature: 0.9"),
    sampled("sampler_jacobi", 3, ", jacobi: {block: 16, iterations: 3}", "starflow_inverse"),
]
