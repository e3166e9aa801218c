"""MAGE (Li et al. 2022): the tokenizer's codes, training's encoder and decoder, the loss, generation, a classifier."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from cases import Array, Forward, Sampler
from maskgit import uniforms
from parity_data import Numbers, load

from latentc import api
from latentc.weights import Array as Tensor
from latentc.weights import write_safetensors

SIZES = (
    "backbone.width=64",
    "backbone.depth=2",
    "backbone.block.mixer.heads=4",
    "backbone.decoder={width: 64, depth: 1, heads: 4}",
    "sampler.steps=5",
    "sampler.randomness=4.5",
)
STAGE = ("backbone.width=32", "backbone.multipliers=[1, 1, 1, 1, 1]", "backbone.blocks=1", "backbone.decoder_blocks=1")
STAGE = (*STAGE, "backbone.bottleneck.channels=32")
CLASSIFIER = ("data.classes=10", "data.class_names=null")
T = 256


def images(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    return {"x": numbers.inputs["imgs64"].repeat(4, 2).repeat(4, 3)}


def ranks(numbers: Numbers) -> Array:
    return np.argsort(np.argsort(numbers.noise[0], axis=-1), axis=-1).reshape(-1, T)


def kept(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    masked = ranks(numbers) < math.ceil(T * float(numbers.inputs["mask_rate"][0]))
    return {"idx": np.where(masked, 2024, numbers.outputs["out.gt"]), "rank": ranks(numbers)}


def loss(out: Array, numbers: Numbers, spec: Any) -> Array:
    """Smoothed cross-entropy of the dropped tokens, which their loss was recorded over."""
    p = out[..., :1024].astype(np.float64)
    p = p - p.max(-1, keepdims=True)
    p -= np.log(np.exp(p).sum(-1, keepdims=True))
    losses = 0.9 * -np.take_along_axis(p, numbers.outputs["out.gt"][..., None], -1)[..., 0] - 0.1 * p.mean(-1)
    return losses[numbers.outputs["out.drop_mask"][:, 1:] > 0].mean()


def sampler(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    return _draws()


@cache
def _draws() -> Mapping[str, Array]:
    """Their loop with the recorded draws, and this network's logits, as theirs are recorded only in part."""
    numbers = load("mage.sampler_gen_image")
    drawn, gumbel = np.stack(numbers.noise[0::2]).reshape(5, 1, T), np.stack(numbers.noise[1::2])
    tokens, made = np.full((1, T), 2024), []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "w.safetensors"
        write_safetensors(file, {n: Tensor(a) for n, a in numbers.weights.items()})
        for step in range(5):
            outs = api.run_method(
                "mage", [f"main={file}"], {"idx": tokens}, "oracle", overrides=SIZES, names="official"
            )
            logits = next(iter(outs.values()))[:, :, :1024]
            made.append(logits)
            unknown = tokens == 2024
            taken = np.where(unknown, drawn[step], tokens)
            p = np.exp(logits - logits.max(-1, keepdims=True))
            p = np.take_along_axis(p / p.sum(-1, keepdims=True), taken[..., None], -1)[..., 0]
            ratio = (step + 1) / 5
            confidence = np.where(unknown, np.log(p), np.inf) + 4.5 * (1 - ratio) * gumbel[step]
            left = max(1, min(int(unknown.sum()) - 1, math.floor(T * math.cos(math.pi / 2 * ratio))))
            tokens = np.where(confidence <= np.sort(confidence, -1)[:, left - 1 : left], 2024, taken)
    logits = np.stack(made)
    return {"u": uniforms(logits.astype(np.float64), drawn), "gumbel": gumbel.astype(np.float32)}


CASES = [
    Forward(
        "mage",
        "vq_maskgit",
        STAGE,
        images,
        wanted=lambda numbers: numbers.outputs["out.gt"],
        prefixes={"main": "vqgan."},
        method="encode",
        names="mage",
    ),
    # Recorded are the logits of every 16th place from that of the condition on, and of every 8th token.
    Forward(
        "mage",
        "mage",
        SIZES,
        kept,
        wanted=lambda numbers: numbers.outputs["out.logits_sub"][:, 1:],
        output=lambda out, numbers, spec: out[:, 15::16, ::8],
        method="forward_kept",
    ),
    Forward(
        "mage",
        "mage",
        SIZES,
        kept,
        wanted=lambda numbers: numbers.outputs["out.loss"],
        output=loss,
        method="forward_kept",
    ),
    Forward(
        "mage.classifier",
        "mage_classifier",
        (*CLASSIFIER, "backbone.width=16", "backbone.depth=2", "backbone.block.mixer.heads=2"),
        lambda numbers, spec: {"idx": numbers.inputs["codes"]},
        "B-probe",
    ),
    Sampler("mage.sampler_gen_image", "mage", SIZES, sampler, tolerance=1e-9),
]
