"""NVG (Wang et al. 2025): both transformers, their losses, the sampler under guidance, the tokenizer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from cases import Array, Forward, Loss, Sampler
from parity_data import Numbers

SIZES = (
    "data.classes=10",
    "data.tokens={vocabulary: 256, grid: [767]}",
    *(f"networks.main.{size}" for size in ("width=128", "depth=2", "heads=2", "ratio=2", "latent=4")),
    *(f"networks.structure.{size}" for size in ("width=64", "depth=2", "heads=1", "ratio=2", "latent=4")),
    "networks.quantizer.codebook={size: 256, channels: 4, side: 16, convolutions: 0}",
    "sampler.structure_steps=2",
)
STAGE = (
    "data.shape=[3, 64, 64]",
    "backbone.width=32",
    "backbone.multipliers=[1, 1, 2, 1, 1]",
    "backbone.blocks=1",
    "backbone.bottleneck={kind: granularity_codebook, size: 16, channels: 4, side: 4, convolutions: 0}",
)
ALIGNED = (
    *SIZES,
    "data.fields.features={shape: [256, 8], medium: array}",
    "networks.main.alignment={blocks: 1, hidden: 32, features: [8]}",
)
ALL = {"main": "nvgformer.", "structure": "nvgformer.", "quantizer": "first_stage_model."}
K = 8


def embedded(numbers: Numbers, stage: int) -> Array:
    """f32[L, K]: the authors' embedding of the structure at a stage."""
    labels = numbers.inputs["tokens"][0, -256:] >> (K - stage)
    known = [2.0 * ((labels >> (stage - 1 - j)) & 1) if j < stage else np.ones(256) for j in range(K)]
    return np.stack(known, -1).astype(np.float32)


def content(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    """One sample at all stages."""
    structure = np.stack([embedded(numbers, stage) for stage in range(K + 1)])
    return {"canvas": numbers.outputs["out.img"], "structure": structure, "stage": np.arange(K + 1), **told(numbers, 9)}


def told(numbers: Numbers, batch: int) -> Mapping[str, Array]:
    return {"y": np.repeat(numbers.inputs["label"], batch)}


def noisy(numbers: Numbers) -> tuple[Array, Array, Array]:
    """Structures at the 7 stages that are predicted, the noise that hides the unknown channels, and times."""
    data = np.repeat(embedded(numbers, K)[None] - 1, K - 1, 0)
    unknown = np.arange(K) >= np.arange(K - 1)[:, None, None]
    noise = np.where(unknown, numbers.noise[0], data)
    t = (1 / (1 + np.exp(-numbers.noise[1].astype(np.float64)))).astype(np.float32)
    return t[:, None, None] * noise + (1 - t[:, None, None]) * data, noise, t


def structure(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    x, _, t = noisy(numbers)
    canvas = numbers.outputs["out.img"][1:-1]
    return {"structure": x, "t": t, "canvas": canvas, "stage": np.arange(1, K), **told(numbers, 7)}


def data_of(velocity: Array, numbers: Numbers, spec: Any) -> Array:
    """The authors' network returns the data that its velocity leads to."""
    return noisy(numbers)[1] - velocity


def codes(logits: Array, numbers: Numbers, spec: Any) -> Array:
    """Logits of the clusters of the first five stages."""
    labels = numbers.inputs["tokens"][0, -256:]
    firsts = [np.unique(labels >> (K - k), return_index=True)[1] for k in range(5)]
    return np.concatenate([logits[k][first] for k, first in enumerate(firsts)])


def batch(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    """One sample at stages 2 to 8 of the codes, 1 to 7 of the structure."""
    every = {"stage": np.arange(2, K + 1), "structure_stage": np.arange(K - 1), "drop": np.ones(7, np.float32)}
    noise = {"noise": np.repeat(numbers.noise[0][None], 7, 0), "logit": numbers.noise[1]}
    return {"tokens": np.repeat(numbers.inputs["tokens"], 7, 0), **told(numbers, 7), **every, **noise}


def aligned(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    return {**batch(numbers, spec), "features": np.repeat(numbers.inputs["features"], 7, 0)}


def loss(numbers: Numbers) -> Array:
    """Of those stages; the alignment, if there is one, counts half."""
    terms = [numbers.outputs[f"out.losses_{name}"] for name in ("canvas", "codes", "structure")]
    alignment = numbers.outputs.get("out.losses_alignment", np.zeros(1)) / 2
    return np.sum([term[-7:].mean() for term in (*terms, alignment)])  # type: ignore[no-any-return]


def request(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    scales = {"scale": np.full(1, 3.5, np.float32), "structure_scale": np.full(1, 2.5, np.float32)}
    return {"y": numbers.inputs["label"], "x": numbers.inputs["structure_noise"], "u": numbers.inputs["u"], **scales}


def image(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    return {"x": numbers.inputs["x"]}


def tokens(numbers: Numbers) -> Array:
    return numbers.outputs["out.tokens"]


CASES = [
    Forward("nvg.train", "nvg", SIZES, content, wanted=lambda n: n.outputs["out.x0"], prefixes=ALL),
    Forward(
        "nvg.train",
        "nvg",
        SIZES,
        content,
        wanted=lambda n: n.outputs["out.logits"],
        output=lambda out, numbers, spec: codes(out["logits"], numbers, spec),
        every_output=True,
        prefixes=ALL,
    ),
    Forward(
        "nvg.train",
        "nvg",
        SIZES,
        structure,
        wanted=lambda n: n.outputs["out.structure"],
        output=data_of,
        network="structure",
        prefixes=ALL,
    ),
    Loss("nvg.train", "nvg", SIZES, batch, wanted=loss, prefixes=ALL),
    Loss("nvg.aligned", "nvg", ALIGNED, aligned, variant="aligned", wanted=loss, prefixes=ALL),
    # Tokens are the same or differ by more than this.
    # OpenVINO, which takes long to compile nine stages, samples at tiny size (tests/verify/test_systems.py).
    Sampler(
        "nvg.sampler_cfg",
        "nvg",
        SIZES,
        request,
        tolerance=1e-9,
        prefixes=ALL,
        backends=("oracle", "torch", "onnxruntime"),
    ),
    Forward("nvg.vqae", "vq_multi_granularity", STAGE, image, wanted=tokens, method="encode", tolerance=1e-9),
    Forward("nvg.vqae", "vq_multi_granularity", STAGE, image),
]
