"""Unified masked diffusion (Hansen-Estruch et al. 2024): the network with half of its patches hidden, and with none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from cases import Array, Forward
from parity_data import Numbers

SIZES = (
    *("data.shape=[3, 16, 16]", "data.classes=10", "data.class_names=null", "backbone.width=32", "backbone.depth=2"),
    *("backbone.decoder_depth=1", "backbone.block.mixer.heads=4", "objective.hidden=0.5"),
)


def network(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    given = numbers.inputs
    told = {"t": given["t"][:, 0].astype(np.float32), "y": given["y"]}
    scores = numbers.noise[0] if numbers.noise else None
    return {"x": given["image"].transpose(0, 3, 1, 2), **told, "scores": scores}


def everything(out: Any, numbers: Numbers, spec: Any) -> Array:
    """Data and noise, the hidden pixels and the representation as one array."""
    prediction, representation, *mask = (np.asarray(array) for array in out.values())
    pixels = [mask[0].reshape(2, 4, 4).repeat(4, 1).repeat(4, 2).ravel()] if mask else []
    return np.concatenate([prediction.transpose(0, 2, 3, 1).ravel(), *pixels, representation.ravel()])


def wanted(numbers: Numbers) -> Array:
    names = [name for name in ("out", "out.aux.mask", "out.aux.pre_logits") if name in numbers.outputs]
    return np.concatenate([numbers.outputs[name].ravel() for name in names])


def case(name: str, method: str) -> Forward:
    options: Any = {"output": everything, "wanted": wanted, "every_output": True, "method": method}
    return Forward(name, "umd", SIZES, network, "B/4-labels", **options)


CASES = [case("umd.vit_ae", "predict_hidden_0"), case("umd.vit_ae_nomask", "predict")]
