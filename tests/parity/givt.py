"""GIVT (Tschannen et al. 2023): mixtures of both styles, and the likelihood of tokens under them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from cases import Array, Forward, Loss, Sampler
from parity_data import Numbers

SIZES = (
    "data.shape=[4, 4, 4]",
    "backbone.width=16",
    "backbone.depth=1",
    "backbone.block.mixer.heads=2",
    "backbone.mixture={components: 4, per_channel: true, halved: false}",
    "sampler.guidance=null",
    "data.first_stage=null",
)

DENSE = (
    *("data.shape=[4, 16]", "data.fields.image.shape=[3, 16, 16]", "data.first_stage=null"),
    *(f"networks.main.{size}" for size in ("width=16", "depth=2", "block.mixer.heads=2", "block.feed_forward.ratio=2")),
    *(f"networks.encoder.{size}" for size in ("width=16", "depth=2", "patch=4", "block.mixer.heads=2")),
    "networks.encoder.block.feed_forward.ratio=2",
)
VAE = (
    *(
        "data.shape=[8, 16, 16]",
        "objective.labels=[5, 3]",
        "backbone.tokens=4",
        "backbone.width=16",
        "backbone.depth=1",
    ),
    *("backbone.decoder_depth=2", "backbone.patch=4", "backbone.block.mixer.heads=2", "backbone.bottleneck.channels=4"),
    "backbone.block.feed_forward.ratio=2",
)
BOTH = {"main": "", "encoder": ""}  # in one file

ADAPTOR = ("networks.adaptor.blocks=3", "networks.adaptor.bottleneck=32")


def causal(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    return {"x": numbers.inputs["sequence"][:, :-1], "y": numbers.inputs["labels"]}


def masked(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    given = numbers.inputs
    return {"x": given["sequence"], "mask": given["input_mask"].astype(np.float32), "y": given["labels"]}


def loss(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    x = numbers.inputs["sequence"].transpose(0, 2, 1).reshape(2, 4, 4, 4)
    return {"x": x, "y": numbers.inputs["labels"], "drop": np.ones(2, np.float32)}


def latents(x: Array) -> Array:
    """Latents [B, 8, 4, 4] of codes [B, 4 * 2, 8 * 2], two latents beside each other."""
    return x.reshape(2, 4, 2, 8, 2).transpose(0, 3, 1, 2, 4).reshape(2, 8, 4, 4)


def adapted(out: Any, numbers: Numbers, spec: Any) -> Array:
    """The inverse of `latents`."""
    return np.asarray(out).reshape(2, 8, 4, 2, 2).transpose(0, 2, 3, 1, 4).reshape(2, 8, 16)


def logits(numbers: Numbers) -> Array:
    return numbers.outputs["out.logits"]


def dense(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    return {"x": numbers.inputs["sequence"][:, :-1], "image": numbers.outputs["out.encoded"]}


def one_hot(numbers: Numbers) -> Array:
    labels = numbers.inputs["labels"]
    parts = [np.eye(n, dtype=np.float32)[labels[..., i]] for i, n in enumerate((5, 3))]
    return np.concatenate(parts, axis=-1).transpose(0, 3, 1, 2)


def moments(numbers: Numbers) -> Array:
    return np.concatenate([numbers.outputs["out.mean"], numbers.outputs["out.log_variance"]], -1).transpose(0, 2, 1)


def of_labels(numbers: Numbers) -> Array:
    return np.concatenate([numbers.outputs["out.semantics"], numbers.outputs["out.instances"]], -1).transpose(
        0, 3, 1, 2
    )


SEQUENCES = (
    *("backbone.width=16", "backbone.depth=2", "backbone.block.mixer.heads=2", "backbone.block.feed_forward.ratio=2"),
    *("backbone.mixture={components: 4}", "data.classes=5", "data.class_names=null", "data.first_stage=null"),
)
# The authors' `rand_top_k_temp` is 2.4 for C = 3 channels.
BEAMS = "{kind: mixture_autoregressive, beams: 2, fans: 3, temperature: 0.9, sharpness: 1.5, randomness: 0.8}"
GUIDED = "{kind: mixture_autoregressive, temperature: 0.9, guidance: {scale: 1.8}, proposals: 16}"
CONSTANT = "{kind: mixture_confidence, steps: 4, schedule: power_2.5, randomness: 2.0, anneal: false}"


def draws(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    names = {"g": "gumbel", "qz": "q_z", "qu": "q_u"}
    given = {names.get(name, name): array for name, array in numbers.inputs.items()}
    return {**given, "scale": np.full(2, 1.8, np.float32)}


def rows(out: Any, numbers: Numbers, spec: Any) -> Array:
    """Tokens [B, T, C]."""
    return np.asarray(out).transpose(0, 2, 1)


CASES = [
    Forward("givt.ar", "givt", SIZES, causal, wanted=logits),
    Forward("givt.masked", "givt_masked", (*SIZES, "backbone.joined_mask=false"), masked, wanted=logits),
    Forward("givt.dense", "givt_dense", DENSE, dense, wanted=logits, prefixes=BOTH),
    Forward(
        "givt.dense",
        "givt_dense",
        DENSE,
        lambda numbers, spec: {"x": numbers.inputs["image"].transpose(0, 3, 1, 2)},
        wanted=lambda numbers: numbers.outputs["out.encoded"],
        prefixes=BOTH,
        network="encoder",
        method="encode",
    ),
    Forward(
        "givt.vit_vae",
        "givt_dense_vae",
        VAE,
        lambda numbers, spec: {"x": one_hot(numbers)},
        variant="panoptic",
        wanted=moments,
        method="encode",
    ),
    Forward(
        "givt.vit_vae",
        "givt_dense_vae",
        VAE,
        lambda numbers, spec: {"x": one_hot(numbers)},
        variant="panoptic",
        wanted=of_labels,
    ),
    Forward(
        "givt.adaptor",
        "givt",
        (*SIZES[1:4], "data.shape=[8, 4, 4]", "data.first_stage=null", *ADAPTOR),
        lambda numbers, spec: {"x": latents(numbers.inputs["sequence"])},
        variant="large-512",
        output=adapted,
        prefixes={"adaptor": ""},
        network="adaptor",
    ),
    Loss("givt.ar", "givt", SIZES, loss, wanted=lambda numbers: numbers.outputs["out.nll"].sum(-1)),
    Sampler(
        "givt.sampler_beams",
        "givt",
        ("data.shape=[3, 5]", f"sampler={BEAMS}", *SEQUENCES),
        draws,
        output=rows,
        tolerance=1e-5,
    ),
    Sampler(
        "givt.sampler_guided",
        "givt",
        ("data.shape=[3, 5]", f"sampler={GUIDED}", *SEQUENCES),
        draws,
        output=rows,
        tolerance=1e-5,
    ),
    Sampler(
        "givt.sampler_masked",
        "givt_masked",
        ("data.shape=[3, 6]", f"sampler={CONSTANT}", "backbone.joined_mask=false", *SEQUENCES),
        draws,
        output=rows,
        tolerance=1e-5,
    ),
]
