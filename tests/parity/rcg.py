"""RCG (Li et al. 2023): the representation diffusion model and its sampler, and DiT conditioned on a representation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from cases import Array, Forward, Sampler
from parity_data import Numbers

DIT = (
    "data.fields={x: {shape: [4, 16, 16]}, representation: {shape: [32]}}",
    "networks.main.width=64",
    "networks.main.depth=2",
    "networks.main.block.mixer.heads=4",
)
RDM = (
    "data.fields={x: {shape: [32]}, context: {shape: [16]}}",
    "conditioning.context={kind: vector}",
    "backbone.width=64",
    "backbone.depth=2",
    "backbone.time_width=32",
    "backbone.context=16",
)
NOISE = (*RDM, "objective.predicts=noise", "sampler.steps=10")


def dit(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    given = numbers.inputs
    told = {"representation": given["rep"], "representation_given": np.ones(len(given["x"]), np.float32)}
    return {"x": given["x"], "t": given["t"].astype(np.float32), **told}


def rdm(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    given = numbers.inputs
    t = given["timesteps"].astype(np.float32)
    return {"x": given["x"][:, :, 0, 0], "t": t, "context": given["context"][:, 0]}


def sampler(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    noise = np.stack(numbers.noise)[..., 0, 0]
    return {"x": numbers.inputs["x_T"][:, :, 0, 0], "context": numbers.inputs["context"][:, 0], "noise": noise}


def vectors(out: Any, numbers: Numbers, spec: Any) -> Array:
    return np.asarray(out)[..., None, None]


CASES = [
    Forward("rcg.dit", "rcg", DIT, dit),
    Forward("rcg.rdm_simplemlp", "rcg_representation", RDM, rdm, output=vectors),
    Sampler("rcg.sampler_rdm_ddim10_eta1", "rcg_representation", NOISE, sampler, output=vectors),
]
