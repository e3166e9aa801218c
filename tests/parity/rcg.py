"""RCG (Li et al. 2023): the representation diffusion model and its sampler; DiT, ADM, LDM and MAGE, told one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from cases import Array, Forward, Sampler
from parity_data import Numbers

DIT = (
    "data.classes=10",
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
UNET = ("networks.main.width=32", "networks.main.multipliers=[1, 2]", "networks.main.blocks=1")
UNET = (*UNET, "networks.main.block.head_channels=16", "conditioning.time.frequencies=32")
ADM = (*UNET, "networks.main.attention=[1]", "data.fields={x: {shape: [3, 16, 16]}, representation: {shape: [12]}}")
LDM = (*UNET, "networks.main.attention=[0, 1]", "data.fields={x: {shape: [4, 8, 8]}, representation: {shape: [12]}}")
MAGE = (
    *("networks.main.width=64", "networks.main.depth=2", "networks.main.block.mixer.heads=4"),
    *("networks.main.decoder={width: 64, depth: 1, heads: 4}", "data.fields={representation: {shape: [12]}}"),
)
ENCODER = (
    *(*UNET[:3], "networks.main.width=8", "networks.main.attention=[]", "networks.main.block={groups: 4, heads: 2}"),
    *("data.shape=[3, 24, 24]", "data.fields.representation.shape=[12]", "networks.encoder.image=16"),
    *("networks.encoder.width=32", "networks.encoder.depth=2", "networks.encoder.patch=4"),
    *("networks.encoder.block.mixer.heads=4", "networks.encoder.head.features=12"),
    "networks.encoder.head.hidden=[24, 24]",
)
NOISE = (*RDM, "objective.predicts=noise", "sampler.steps=10")


def dit(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    given = numbers.inputs
    told = {"representation": given["rep"], "representation_given": np.ones(len(given["x"]), np.float32)}
    return {"x": given["x"], "t": given["t"].astype(np.float32), **told}


def adm(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    given = numbers.inputs
    told = given["rep"] if "rep" in given else given["context"][:, 0]
    return {"x": given["x"], "t": given["timesteps"].astype(np.float32), "representation": told}


def mage(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    """The second sample has no representation."""
    given = numbers.inputs
    return {"idx": given["idx"], "representation": given["rep"], "representation_given": np.float32([1, 0])}


def some(out: Any, numbers: Numbers, spec: Any) -> Array:
    """Every 16th place and every 8th token, as recorded."""
    return np.asarray(out)[:, ::16, ::8]


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
    Forward("rcg.adm", "rcg_adm", ADM, adm),
    Forward("rcg.ldm", "rcg_ldm", LDM, adm),
    Forward("rcg.mage", "rcg_mage", MAGE, mage, output=some),
    Forward("rcg.rdm_simplemlp", "rcg_representation", RDM, rdm, output=vectors),
    Forward(
        "rcg.encoder",
        "rcg_adm",
        ENCODER,
        lambda numbers, spec: {"x": numbers.inputs["x"]},
        "images",
        prefixes={"encoder": ""},
        names="moco",
        network="encoder",
        method="encode",
    ),
    Sampler("rcg.sampler_rdm_ddim10_eta1", "rcg_representation", NOISE, sampler, output=vectors),
]
