"""CGNC: the perturbation, and its loss with gradients by a classifier of images and of turned ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cases import Array, Forward, Loss
from parity_data import Numbers

SIZES = (
    "data={kind: npz, path: train.npz, classes: 10, shape: [3, 16, 16]}",
    *("networks.main.width=8", "networks.main.code=4", "networks.main.heads=2"),
    *("networks.texts.pretrained=null", "networks.texts.frozen=true", "objective.targets=null"),
)
LOSS = (
    *(*SIZES, "networks.main.epsilon=0.25098039215686274", "objective.views=[turned]"),
    *("networks.classifier.layers=[1, 1, 1, 1]", "networks.classifier.bottleneck=false"),
)


def inputs(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    """The authors' images have values from 0 to 1."""
    return {"image": 2 * numbers.inputs["input"] - 1, "class_text": numbers.inputs["cond"]}


def batch(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    given = numbers.inputs
    return {"x": 2 * given["x"] - 1, "target": given["label"], "turns": given["turns"]}


CASES = [
    Forward("cgnc", "cgnc", SIZES, inputs, wanted=lambda numbers: 2 * numbers.outputs["out"]),
    Loss("cgnc.loss", "cgnc", LOSS, batch, prefixes={"main": "netG.", "texts": "text.", "classifier": "model."}),
]
