"""LARP (Wang et al. 2024): the autoregressive model and its sampler, the tokenizer with the codes that it drew."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from cases import Array, Forward, Sampler
from maskgit import uniforms
from parity_data import Numbers

SIZES = (
    "data.classes=10",
    "data.tokens={vocabulary: 64, grid: [16]}",
    "backbone.width=64",
    "backbone.depth=2",
    "backbone.block.mixer.heads=4",
    "backbone.block.feed_forward.multiple_of=32",
)
TOKENIZER = (
    "data.fields.x.shape=[3, 4, 16, 16]",
    "networks.main.tokens=8",
    "networks.main.width=48",
    "networks.main.depth=1",
    "networks.main.patch=8",
    "networks.main.frames=2",
    "networks.main.typed=[]",
    "networks.main.block.mixer.heads=4",
    "networks.main.bottleneck={kind: stochastic_codebook, size: 32, channels: 8, temperature: 0.03}",
    "networks.prior={kind: vector_transformer, width: 16, depth: 1, length: 8, channels: 8, block: {mixer: "
    "{kind: attention, heads: 2, causal: true}, feed_forward: {kind: gelu_mlp}, norm: {kind: layer_norm}, "
    "condition: {kind: in_context}}}",
)

FRAMES = (
    "data.tokens={vocabulary: 20, grid: [6]}",
    "data.fields.seen.shape=[3, 2, 8, 8]",
    "backbone.width=24",
    "backbone.depth=2",
    "backbone.positions={kind: sincos_1d, stored: true}",
    "backbone.block.mixer.heads=3",
    "backbone.block.feed_forward.multiple_of=8",
    "conditioning.seen.end=20",
    *(f"networks.encoder.{size}" for size in ("tokens=6", "filled_to=4", "width=8", "depth=1", "patch=4", "frames=2")),
    "networks.encoder.block.mixer.heads=2",
    "networks.encoder.bottleneck={kind: codebook, size: 20, channels: 2}",
)
GAUSSIAN = (
    "data.fields.x.shape=[3, 4, 8, 8]",
    *(f"networks.main.{size}" for size in ("tokens=5", "width=16", "depth=1", "patch=4", "frames=2", "base=100")),
    "networks.main.learned=[outputs]",
    "networks.main.typed=[latents]",
    "networks.main.latent_norm=batch_whole",
    "networks.main.block.mixer.heads=2",
    "networks.main.bottleneck.channels=3",
)


def forward(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    return {"idx": numbers.inputs["idx"], "y": numbers.inputs["cond_idx"]}


def behind_frames(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    return {"idx": numbers.inputs["idx"], "seen": numbers.inputs["cond_idx"]}


def sampler(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    return {"y": numbers.inputs["c"], "scale": np.full(2, 2.5, np.float32)}


def drawn(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    """Numbers in the middle of the shares of the codes that the authors drew."""
    closeness = numbers.outputs["out.enc.unregularized_z"] @ numbers.outputs["out.enc.emb"].T / 0.03
    u = uniforms(closeness.astype(np.float64)[None], numbers.outputs["out.enc.bottleneck_rep"][None])[0]
    return {"x": numbers.inputs["x"], "u": u}


def normal(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    return {"x": numbers.inputs["x"], "noise": numbers.noise[0].transpose(0, 2, 1)}


def codes(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    return {"z": numbers.outputs["out.enc.bottleneck_rep"]}


def video(numbers: Numbers) -> Array:
    return numbers.outputs["out.dec"]


GREEDY = "sampler={kind: autoregressive, temperature: 0, guidance: {scale: 2.5}}"
STAGE: dict[str, Any] = {"spec": "larp_tokenizer", "sizes": TOKENIZER}
VARIATIONAL: dict[str, Any] = {"spec": "larp_tokenizer", "variant": "gaussian", "sizes": GAUSSIAN, "inputs": normal}
CASES = [
    Forward("larp.ar", "larp", SIZES, forward, wanted=lambda numbers: numbers.outputs["out.0"]),
    Forward("larp.frames", "larp_fp", FRAMES, behind_frames),
    Forward("larp.gaussian", **VARIATIONAL, wanted=lambda numbers: numbers.outputs["out.dec"]),
    Forward(
        "larp.gaussian",
        **VARIATIONAL,
        method="regularized",
        every_output=True,
        output=lambda out, numbers, spec: np.append(next(iter(out.values())), out["penalty"].mean()),
        wanted=lambda numbers: np.append(numbers.outputs["out.drawn"], numbers.outputs["out.kl"]),
    ),
    # Tokens are the same or differ by more than this.
    Sampler("larp.sampler_greedy", "larp", (*SIZES, GREEDY), sampler, tolerance=1e-9),
    Forward("larp.tokenizer", **STAGE, inputs=drawn, wanted=video, method="regularized", tolerance=1e-6),
    Forward("larp.tokenizer", **STAGE, inputs=codes, wanted=video, method="decode"),
    Forward(
        "larp.tokenizer",
        **STAGE,
        inputs=drawn,
        wanted=lambda numbers: numbers.outputs["out.enc.loss_q"].reshape(1),
        method="regularized",
        every_output=True,
        output=lambda out, numbers, spec: out["penalty"],
    ),
]
