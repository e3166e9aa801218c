"""PULASki's probabilistic U-Net: both distributions of latents, and a mask."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from cases import Array, Forward, Sampler
from parity_data import Numbers

SIZES = (
    "data.fields={x: {shape: [1, 16, 16]}, image: {shape: [1, 16, 16]}, raters: {shape: [2, 16, 16]}}",
    "backbone.widths=[8, 16]",
    "backbone.latent_dim=3",
)


def inputs(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    """The authors' masks have values from 0 to 1."""
    return {"image": numbers.inputs["patch"], "x": 2 * numbers.inputs["segm"] - 1}


def moments(out: Any, numbers: Numbers, spec: Any) -> Array:
    return np.concatenate([out["mean"], np.exp(out["log_std"])], axis=1)


def of(name: str) -> Any:
    return lambda numbers: np.concatenate([numbers.outputs[f"out.{name}_{m}"] for m in ("mu", "sigma")], axis=1)


def drawn(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    """The latents are recorded, not their noise."""
    mean, std = (numbers.outputs[f"out.prior_{m}"].astype(float) for m in ("mu", "sigma"))
    return {**inputs(numbers, spec), "noise": (numbers.noise[0] - mean) / std}


def shown(numbers: Numbers) -> Array:
    """Twice the probability, less 1, of the authors' logits."""
    return np.tanh(numbers.outputs["out.sample"] / 2)


CASES = [
    Forward("pulaski", "pulaski", SIZES, inputs, wanted=of("prior"), output=moments, method="prior", every_output=True),
    Forward(
        "pulaski", "pulaski", SIZES, inputs, wanted=of("post"), output=moments, method="posterior", every_output=True
    ),
    Sampler("pulaski", "pulaski", SIZES, drawn, wanted=shown, tolerance=1e-5),
]
