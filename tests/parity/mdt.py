"""MDTv2 (Gao et al. 2023): the network, also with hidden patches, the sum of both losses, guided DDPM."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from cases import Array, Forward, Loss, Sampler
from parity_data import Numbers

SIZES = ("data.shape=[4, 8, 8]", "data.classes=10", "backbone.width=64", "backbone.depth=6")
SIZES += ("backbone.decoder_depth=2", "backbone.block.mixer.heads=4")


def inputs(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    return {name: numbers.inputs[name] for name in ("x", "t", "y")}


def masked(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    """The authors draw one fraction of hidden patches per batch."""
    u, scores = numbers.noise
    return {**inputs(numbers, spec), "mask_ratio": np.repeat(u, len(scores)), "mask_scores": scores}


def loss_inputs(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    noise, masked_noise, u, scores = numbers.noise
    keep = np.ones(len(noise))
    given = {"x": numbers.inputs["x"], "y": numbers.inputs["y"], "t": numbers.inputs["t"], "noise": noise}
    given |= {"drop": keep, "masked_drop": keep, "masked_noise": masked_noise}
    return given | {"mask_ratio": np.repeat(u, len(noise)), "mask_scores": scores}


def sampler_inputs(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    z = numbers.inputs["z"]
    scale = np.full(len(z), 3.8, np.float32)
    return {"x": z, "y": numbers.inputs["y"], "scale": scale, "noise": np.stack(numbers.noise)}


CASES = [
    Forward("mdtv2", "mdt", SIZES, inputs),
    Forward("mdtv2.masked", "mdt", SIZES, masked, method="masked_forward"),
    Loss("mdtv2.loss", "mdt", SIZES, loss_inputs, wanted=lambda numbers: numbers.outputs["out.loss"]),
    Sampler("mdtv2.sampler", "mdt", (*SIZES, "sampler.steps=6", "sampler.guidance.scale=3.8"), sampler_inputs),
]
