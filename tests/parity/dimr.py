"""DiMR (Liu et al. 2024): all outputs, from coarse to fine, with each of the authors' norms and positions, sizes of
branches, and text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from cases import Array, Forward
from parity_data import Numbers

TIME = "conditioning.time={kind: scalar, scale: 0.25}"
DATA = ("data.shape=[4, 16, 16]", "data.classes=10", TIME)
TWO = "[{width: 64, half: 1, patch: 2, block: coarse, heads: 4}, {width: 32, half: 1}]"
SIZES = (*DATA, f"backbone.branches={TWO}", "backbone.coarse.mixer.heads=4")


def inputs(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    return {"x": numbers.inputs["x"], "t": numbers.inputs["log_snr"], "y": numbers.inputs["y"]}


def without_class(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    return {"x": numbers.inputs["x"], "t": numbers.inputs["log_snr"]}


def captioned(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    given = numbers.inputs
    return {"x": given["x"], "t": given["log_snr"], "caption": given["text"], "caption_mask": given["mask"]}


def joined(out: Any, numbers: Numbers, spec: Any) -> Array:
    fine, *coarser = out.values()
    return np.concatenate([np.ravel(a) for a in (*coarser, fine)])


def wanted(numbers: Numbers) -> Array:
    return np.concatenate([np.ravel(numbers.outputs[name]) for name in sorted(numbers.outputs)])


def case(numbers: str, *sizes: str, given: Any = inputs, variant: str | None = None) -> Forward:
    how = {"wanted": wanted, "output": joined, "every_output": True, "method": "train_forward", "variant": variant}
    return Forward(numbers, "dimr", sizes, given, **how)


ROTARY = "[{width: 32, half: 1, patch: 2, block: coarse}, {width: 16, half: 0, block: coarse}]"
BY_CLASS = (
    "[{width: 32, half: 1, patch: 2, shrink: 2, block: coarse}, {width: 16, half: 1, patch: 2}, {width: 8, half: 0}]"
)
LAYER_NORM = "[{width: 32, half: 1, patch: 2, block: coarse}, {width: 16, half: 1}]"
OWN_SIZES = (
    "[{width: 16, half: 1, patch: 2, shrink: 2, block: coarse, ratio: 3}, "
    "{width: 16, half: 1, patch: 2, kernel: 3, ratio: 1.5}, {width: 8, half: 1, kernel: 5}]"
)
CASES = [
    case("dimr", *SIZES),
    case(
        "dimr.rotary",
        *DATA[1:],
        "data.shape=[4, 8, 8]",
        f"backbone.branches={ROTARY}",
        "backbone.coarse.mixer={kind: axial_attention, heads: 2, qkv_bias: false}",
        "backbone.coarse.norm={kind: rms_norm, eps: 1e-16}",
        "conditioning.class=null",
        "sampler.guidance=null",
        given=without_class,
    ),
    case(
        "dimr.adarmsn",
        *DATA,
        f"backbone.branches={BY_CLASS}",
        "objective.further=[{kind: multi_scale, scales: [0.0625, 0.25]}]",
        "backbone.coarse.mixer.heads=2",
        "backbone.coarse.norm={kind: first_token_rms_norm}",
        "backbone.fine.norm={kind: first_token_rms_norm, rows: true}",
    ),
    case(
        "dimr.ln",
        *DATA,
        f"backbone.branches={LAYER_NORM}",
        "backbone.coarse.mixer.heads=2",
        "backbone.coarse.norm={kind: timed_layer_norm}",
        "backbone.fine.norm={kind: timed_layer_norm}",
    ),
    case(
        "dimr.branches",
        *DATA,
        f"backbone.branches={OWN_SIZES}",
        "objective.further=[{kind: multi_scale, scales: [0.0625, 0.25]}]",
        "backbone.coarse.mixer.heads=2",
    ),
    case(
        "dimr.text",
        *("data.shape=[4, 8, 8]", TIME, f"backbone.branches={LAYER_NORM}", "backbone.coarse.mixer.heads=2"),
        *("data.fields.caption.shape=[5, 6]", "data.fields.caption_mask.shape=[5]"),
        "conditioning.caption.null_embedding=zeros",
        given=captioned,
        variant="XL/2R-256-text",
    ),
]
