"""TiTok (Yu et al. 2024): the tokenizer of both stages and that of pixels, the generator with its loss and sampler."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from cases import Array, Forward, Loss, Sampler
from maskgit import uniforms
from parity_data import Numbers

MAIN = "networks.main."
LATENTS = ("networks.main.bottleneck={kind: codebook, size: 40, channels: 12, normalize: true, commitment: 0.25}",)
HEADS = (
    "{mixer: {kind: attention, heads: %d}, feed_forward: {kind: gelu_mlp, approximate: none}, norm: {kind: layer_norm, "
)
HEADS += "eps: 1e-5, affine: true}, condition: {kind: in_context}}"


def sizes(side: int, **main: Any) -> tuple[str, ...]:
    """Of the tokenizer of images of so many pixels."""
    return (f"data.fields.x.shape=[3, {side}, {side}]", *(f"{MAIN}{key}={value}" for key, value in main.items()))


STAGE1 = sizes(32, tokens=6, patch=8, width=64, depth=2, decoder_depth=1, decoder_block=HEADS % 2)
STAGE1 += (*LATENTS, f"{MAIN}block.mixer.heads=4", "networks.proxy.pretrained=null", "networks.proxy.width=32")
STAGE1 += ("networks.proxy.multipliers=[1, 1, 1, 1]", "networks.proxy.blocks=1", "networks.proxy.decoder_blocks=1")
STAGE2 = sizes(64, tokens=5, patch=16, width=64, depth=2, pretrained="null")
STAGE2 += (*LATENTS, f"{MAIN}block.mixer.heads=4")
STAGE2 += (f"{MAIN}pixels={{channels: 32, width: 32, multipliers: [1, 1, 1, 1, 1], blocks: 1}}",)
PIXELS = sizes(32, tokens=4, patch=8, width=48, depth=3, decoder_patch=16, decoder_width=64, decoder_depth=2)
PIXELS += (f"{MAIN}block.mixer.heads=3", f"{MAIN}decoder_block={HEADS % 4}")
PIXELS += (f"{MAIN}bottleneck={{kind: gaussian, channels: 6}}",)
GENERATOR = (
    "data.classes=6",
    "data.tokens={vocabulary: 40, grid: [10]}",
    "data.first_stage=null",
    "backbone.width=48",
    "backbone.depth=5",
    "backbone.block.mixer.heads=3",
    "backbone.block.feed_forward.ratio=2",
    "backbone.embedding.labels=7",
    "conditioning.class.dropout=0.5",
    "sampler.steps=4",
    "sampler.randomness=4.5",
    "sampler.temperatures=[1, 1]",
    "sampler.guidance={scale: 4, schedule: linear}",
)


def image(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    return {"x": numbers.inputs["x"]}


def codes(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    return {"z": numbers.outputs["out.codes"][:, 0]}


def with_noise(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    return {"x": numbers.inputs["x"], "noise": numbers.noise[0].transpose(0, 1, 3, 2)}


def by_patch(numbers: Numbers) -> Array:
    """Logits f32[B, T, V]."""
    of_rows = numbers.outputs["out.decoded"]
    return of_rows.reshape(*of_rows.shape[:2], -1).transpose(0, 2, 1)


def penalised(out: Any, numbers: Numbers, spec: Any) -> Array:
    return np.asarray(out["penalty"]).mean().reshape(1)


def masked(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    y = np.where(numbers.noise[2] < 0.5, 6, numbers.inputs["label"])
    return {"idx": numbers.outputs["out.masked"], "y": y}


def loss(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    time, order, drop = numbers.noise
    ids = numbers.inputs["ids"]
    return {"tokens": ids, "y": numbers.inputs["label"], "u": time, "rank": order.argsort(-1), "drop": drop}


def sampler(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    """Numbers in the middle of the shares of the tokens that the authors' code drew; any in the greedy last step."""
    given, steps = numbers.outputs["out.logits"].astype(np.float64), 4
    logits = np.stack(
        [given[0], *(c + 3 * i / 4 * (c - u) for i, (c, u) in enumerate(given[1:].reshape(3, 2, 2, 10, 40), 1))]
    )
    noise = [n for n in numbers.noise if n.ndim > 1]
    gumbel = [-np.log(-np.log(n.astype(np.float64))) for n in noise]
    u = np.full((steps, 2, 10), 0.5, np.float32)
    for i in range(steps - 1):
        temperature = 4.5 * (1 - (i + 1) / steps)
        drawn = (logits[i] + temperature * gumbel[2 * i]).argmax(-1)
        u[i] = uniforms(logits[i : i + 1] / temperature, drawn[None])[0]
    scale = np.full(2, 4.0, np.float32)
    return {"y": numbers.inputs["label"], "scale": scale, "u": u, "gumbel": np.stack(gumbel[1::2]).astype(np.float32)}


S128: dict[str, Any] = {"spec": "titok", "variant": "S-128", "sizes": GENERATOR}
FIRST: dict[str, Any] = {"numbers": "titok.stage1", "spec": "titok_tokenizer", "variant": "stage1", "sizes": STAGE1}
VAE: dict[str, Any] = {
    "numbers": "titok.vae_pixels",
    "spec": "titok_tokenizer",
    "variant": "BL-64-vae",
    "sizes": PIXELS,
}
CASES = [
    Forward(**FIRST, inputs=image, method="encode", wanted=lambda numbers: numbers.outputs["out.codes"][:, 0]),
    Forward(**FIRST, inputs=codes, method="proxies", wanted=by_patch),
    Forward(
        **FIRST,
        inputs=image,
        method="regularized_proxies",
        every_output=True,
        output=penalised,
        wanted=lambda numbers: numbers.outputs["out.quantizer_loss"].reshape(1),
    ),
    Forward(
        "titok.stage2",
        "titok_tokenizer",
        STAGE2,
        image,
        wanted=lambda numbers: numbers.outputs["out.decoded"],
        tolerance=3e-4,
        why="ONNX Runtime's group norm of single channels whose values are nearly equal; other backends: below 5e-6",
    ),
    Forward(
        **VAE,
        inputs=image,
        method="encode",
        output=lambda out, numbers, spec: out.transpose(0, 1, 3, 2),
        wanted=lambda numbers: numbers.outputs["out.moments"],
    ),
    Forward(**VAE, inputs=with_noise, method="regularized", wanted=lambda numbers: numbers.outputs["out.decoded"]),
    Forward(
        **VAE,
        inputs=with_noise,
        method="regularized",
        every_output=True,
        output=lambda out, numbers, spec: np.asarray(out["penalty"]),
        wanted=lambda numbers: numbers.outputs["out.kl"].sum(-1),
    ),
    Forward("titok.maskgit", **S128, inputs=masked, wanted=lambda numbers: numbers.outputs["out.logits"]),
    Loss("titok.maskgit", **S128, inputs=loss, wanted=lambda numbers: numbers.outputs["out.loss"]),
    # Tokens are the same or differ by more than this.
    Sampler("titok.maskgit_sampler", **S128, inputs=sampler, wanted=lambda n: n.outputs["out.ids"], tolerance=1e-9),
]
