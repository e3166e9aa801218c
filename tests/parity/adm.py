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
    given = numbers.inputs
    return {"x": given["x"], "t": given["timesteps"], "y": given.get("y"), "low": given.get("low_res")}


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


def clipped_inputs(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    given = {"x": numbers.inputs["x_T"], "y": numbers.inputs["y"], "noise": np.stack(numbers.noise)}
    return {**given, "attention_scale": np.full(len(given["y"]), 1.8, np.float32)}


# Self-attention guidance (Hong et al. 2022): its threshold is a step; data is clipped before the blur.
SAG = "{kind: self_attention, scale: 1.8, sigma: 3, kernel: 31, block: mid_0, softness: 0}"
SAG = f"sampler={{kind: ddpm, timesteps: [250, 249, 0], clip: 1.0, guidance: {SAG}}}"
VOLUME = ("data.shape=[3, 3, 4, 6]", *DATA[1:], *network("backbone")[:-1], "backbone.block.heads=2")
VOLUME += ("backbone.decoder_heads=4", "backbone.block.embedding=add")
VOLUME += ("backbone.resampling=filter", "backbone.block.resample=planes")
SUPER_RES = ("data.shape=[3, 8, 12]", *DATA[1:], *network("backbone"), "backbone.block.qkv=parts")
SUPER_RES += ("conditioning.low={kind: low_resolution, factor: 2, enlarged: bilinear}",)

CASES = [
    Forward("adm.volume", "adm", VOLUME, inputs),
    Forward("adm.super_res", "adm", SUPER_RES, inputs),
    Forward("adm", "adm", (*DATA, *network("backbone")), inputs),
    Forward("adm.classifier", "adm_classifier", (*DATA, *network("backbone")), inputs),
    guided("adm.sampler_classifier_guided_ddpm10", "kind: ddpm, respacing: '10'"),
    guided("adm.sampler_classifier_guided_ddim10", "kind: ddim, respacing: ddim10"),
    Sampler(
        "sag.sampler_clipped",
        "adm",
        (*DATA, *network("backbone"), SAG),
        clipped_inputs,
    ),
]
