"""Taming transformers (Esser et al. 2021): VQGAN, its discriminator, and the GPT over tokens, also in windows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cases import Array, Forward, Sampler
from parity_data import Numbers

GPT = (
    "data.classes=64",
    "data.tokens={vocabulary: 64, grid: [4, 4]}",
    "backbone.width=64",
    "backbone.depth=2",
    "backbone.block.mixer.heads=4",
)
VQGAN = (
    "data.shape=[3, 16, 16]",
    "networks.main.width=32",
    "networks.main.multipliers=[1, 2]",
    "networks.main.blocks=1",
    "networks.main.attention=[1]",
    "networks.main.bottleneck={kind: codebook, size: 64, channels: 32}",
    "networks.discriminator.depth=1",
)
SLIDING = (
    "data.first_stage=null",
    "data.tokens={vocabulary: 16, grid: [5, 6]}",
    "data.fields={map: {shape: [30], classes: 16}}",
    "conditioning={map: {kind: tokens, padding: none, dropout: 0}}",
    "networks.encoder=null",
    "networks.main.window=[4, 4]",
    "networks.main.width=32",
    "networks.main.depth=1",
    "networks.main.block.mixer.heads=2",
    "sampler={kind: sliding, top_k: 6, temperature: 0.9}",
)


def tokens(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    """The first of their tokens is the condition."""
    idx = numbers.inputs["idx"]
    return {"idx": idx[:, 1:], "y": idx[:, 0]}


def image(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    return {"x": numbers.inputs["x"]}


PATCHES = (*VQGAN, "networks.discriminator={kind: patch_discriminator, width: 16, depth: 2}", "data.shape=[3, 32, 32]")
CASES = [
    Forward(
        "taming.patchgan",
        "vqgan_taming",
        PATCHES,
        lambda numbers, spec: {"x": numbers.inputs["input"]},
        prefixes={"discriminator": ""},
        network="discriminator",
    ),
    # Tokens are the same or differ by more than this.
    Sampler(
        "taming.sampler_sliding",
        "taming_depth",
        SLIDING,
        lambda numbers, spec: {"map": numbers.inputs["c"], "u": numbers.inputs["u"]},
        tolerance=1e-9,
    ),
    Forward("taming.mingpt", "taming", GPT, tokens),
    Forward("taming.vqgan", "vqgan_taming", VQGAN, image, wanted=lambda numbers: numbers.outputs["out.dec"]),
    Forward(
        "taming.vqgan",
        "vqgan_taming",
        VQGAN,
        image,
        wanted=lambda numbers: numbers.outputs["out.enc.2.2"].reshape(2, 64),
        method="encode",
    ),
]
