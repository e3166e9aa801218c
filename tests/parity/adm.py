"""ADM (Dhariwal and Nichol 2021): the denoiser and the classifier of noisy images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from cases import Array, Forward, Sampler
from parity_data import Numbers

DATA = ("data.shape=[3, 16, 16]", "data.classes=10", "conditioning.time.frequencies=32")


def network(path: str) -> tuple[str, ...]:
    return (
        f"{path}.width=32",
        f"{path}.multipliers=[1, 2]",
        f"{path}.blocks=1",
        f"{path}.attention=[1]",
        f"{path}.block.head_channels=16",
    )


def inputs(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    return {"x": numbers.inputs["x"], "t": numbers.inputs["timesteps"], "y": numbers.inputs.get("y")}


def sampler_inputs(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    given = {"x": numbers.inputs["x_T"], "y": numbers.inputs["y"], "noise": np.stack(numbers.noise)}
    return {**given, "classifier_scale": np.full(len(given["y"]), 3.0, np.float32)}


def guided(numbers: str, sampler: str) -> Sampler:
    """The authors' two networks in one file."""
    pair = {"main": "model.", "classifier": "classifier."}
    sampler = f"sampler={{{sampler}, clip: 1.0, guidance: {{kind: classifier, scale: 3.0}}}}"
    sizes = (
        *DATA,
        *network("backbone"),
        *network("networks.classifier"),
        "networks.classifier.frequencies=32",
        sampler,
    )
    return Sampler(numbers, "adm_g", sizes, sampler_inputs, prefixes=pair)


CASES = [
    Forward("adm", "adm", (*DATA, *network("backbone")), inputs),
    Forward("adm.classifier", "adm_classifier", (*DATA, *network("backbone")), inputs),
    guided("adm.sampler_classifier_guided_ddpm10", "kind: ddpm, respacing: '10'"),
    guided("adm.sampler_classifier_guided_ddim10", "kind: ddim, respacing: ddim10"),
]
