"""OGEN: features that the authors' generator makes, the classes and logits they are made for, and the loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from cases import Array, Forward, Loss
from parity_data import Numbers

SIZES = (
    "data={kind: npz, path: x.npz, classes: 6, fields: {x: {shape: [24]}}}",
    *(f"backbone.{size}" for size in ("new=5", "scale=20", "pretrained=null", "fresh_weights=[]")),
    "objective.warmup=0",
)
MADE = ("same", "around", "beyond")


def batch(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    """The authors draw one row of uniform numbers for the whole batch."""
    given = numbers.inputs
    rows = np.repeat(numbers.noise[0], len(given["label"]), axis=0)
    return {"x": given["image_features"], "y": given["label"], "u": rows}


def everything(out: Any, numbers: Numbers, spec: Any) -> Array:
    """Made features, the new classes, and the logits of the features made of a sample's class."""
    parts = [*(out[name] for name in MADE), out["new_labels"], out["logits_same"]]
    return np.concatenate([np.asarray(part, np.float64).ravel() for part in parts])


def recorded(numbers: Numbers) -> Array:
    names = ("pred_unknown", "pred_known", "pred_new", "label_new", "logits_unknown")
    return np.concatenate([np.asarray(numbers.outputs[f"out.{name}"], np.float64).ravel() for name in names])


def loss(numbers: Numbers) -> Array:
    return np.asarray(numbers.outputs["out.loss"])


CASES = [
    Forward("ogen", "ogen", SIZES, batch, wanted=recorded, output=everything, every_output=True, method="reconstruct"),
    Loss("ogen", "ogen", SIZES, batch, wanted=loss),
]
