"""MeanFlow's U-Net for CIFAR-10 (py-meanflow, the authors' PyTorch code): network, losses, a sample."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from cases import Array, Forward, Loss, Sampler
from parity_data import Numbers

SIZES = (
    "data.shape=[3, 16, 16]",
    "backbone.width=16",
    "backbone.multipliers=[2, 2]",
    "backbone.blocks=1",
    "backbone.block.dropout=0",
    "conditioning.time.frequencies=32",
)


def inputs(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    given = numbers.inputs
    return {"x": given["x"], "t": given["t"], "span": given["h"], "augment": given["augment"]}


def noise(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    """The authors' network is not told augmentations when it samples; ours is told that there were none."""
    return {"x": numbers.inputs["e"], "augment": np.zeros((len(numbers.inputs["e"]), 6), np.float32)}


def drawn(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    return {"augment": np.zeros((len(numbers.inputs["x"]), 6), np.float32), **numbers.inputs}


CASES = [
    Forward("py_meanflow.unet", "mean_flow_cifar10", SIZES, inputs),
    Sampler("py_meanflow.sample", "mean_flow_cifar10", SIZES, noise),
    Loss("py_meanflow.loss", "mean_flow_cifar10", SIZES, drawn),
    Loss("py_meanflow.loss_v1", "mean_flow_cifar10", SIZES, drawn, variant="v1"),
]
