"""Drifting models: the generator with recorded codes, the features of its frozen network, and the loss of that network.

The drift itself, a function without weights, is compared in tests/systems/drifting.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from cases import Array, Forward, Loss
from parity_data import Numbers

DATA = ("data.shape=[4, 8, 8]", "data.classes=10", "data.class_names=null")
FEATURES = (*DATA, "networks.main.width=32", "networks.main.layers=[2, 2, 2, 2]")
GENERATOR = tuple(
    f"networks.main.{size}"
    for size in ("width=64", "depth=2", "class_tokens=2", "code_count=3", "codebook=5", "block.mixer.heads=4")
)


def first(x: Array) -> Array:
    """Channels before rows and columns."""
    return x.transpose(0, 3, 1, 2)


def generator(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    noise, codes = numbers.noise
    given = numbers.inputs
    return {"z": first(noise), "codes": codes, "y": given["c"], "cfg": given["cfg_scale"]}


def image(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    return {"x": first(numbers.inputs["x"])}


def masked(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    share, chance = numbers.noise
    return {"x": first(numbers.inputs["x"]), "y": numbers.inputs["labels"], "share": share, "chance": chance}


def flat(arrays: Any) -> Array:
    return np.concatenate([np.asarray(array, np.float64).ravel() for array in arrays])


def maps(numbers: Numbers) -> Array:
    """All recorded features, in the order of our names; `global`, the array itself, is not among them."""
    return flat(numbers.outputs[f"out.{name}"] for name in NAMES)


def described(out: Any, numbers: Numbers, spec: Any) -> Array:
    names = spec.networks["main"].map_names(8, 8)
    made = dict(zip(names, out.values(), strict=True))
    return flat(made[name] for name in NAMES)


def _names() -> tuple[str, ...]:
    found = ["norm_x"]
    for stage, side in (("conv1", 8), ("layer1", 8), ("layer2", 4), ("layer3", 2), ("layer4", 1)):
        for name in (stage, f"{stage}_blk2")[: 1 + (stage != "conv1")]:
            found += [name, f"{name}_mean"] + [f"{name}_std"] * (side > 1)
            found += [f"{name}_mean_{n}" for n in (2, 4) if side % n == 0]
            found += [f"{name}_std_2"] if side % 2 == 0 else []
    return tuple(found)


NAMES = _names()
"""The recorded features but deviations of single positions, 0.001 all; those of patches of 4 are not recorded."""

CASES = [
    Forward(
        "drifting",
        "drifting",
        (*DATA, *GENERATOR),
        generator,
        wanted=lambda numbers: first(numbers.outputs["out.samples"]),
    ),
    Forward(
        "drifting.mae_features",
        "drifting_features",
        FEATURES,
        image,
        wanted=maps,
        output=described,
        every_output=True,
        method="maps",
    ),
    Loss(
        "drifting.mae_loss",
        "drifting_features",
        (*FEATURES, "objective.patch=4", "objective.hidden=[0.5, 0.9]", "objective.last=null"),
        masked,
        wanted=lambda numbers: numbers.outputs["out.loss"].mean(),
    ),
]
