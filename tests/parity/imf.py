"""Improved MeanFlow: a sample by a checkpoint for evaluation, which is without the blocks of the velocity head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cases import Array, Sampler
from parity_data import Numbers

SIZES = (
    "data.shape=[4, 8, 8]",
    "data.classes=10",
    "data.class_names=null",
    "backbone.width=32",
    "backbone.depth=3",
    "backbone.velocity_head=1",
    "backbone.block.mixer.heads=2",
)


def inputs(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    return numbers.inputs


# The emitted model has that head, for training, so it does not load such a checkpoint; bundles do.
BUNDLES = ("oracle", "onnxruntime", "openvino")
CASES = [Sampler("imf.evaluation", "improved_mean_flow", SIZES, inputs, variant="B/2", backends=BUNDLES)]
