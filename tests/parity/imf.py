"""Improved MeanFlow: both heads, the loss, samplers, also by a checkpoint for evaluation, without the velocity head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from cases import Array, Forward, Loss, Sampler
from parity_data import Numbers

DATA = ("data.shape=[4, 8, 8]", "data.classes=10", "data.class_names=null")
SIZES = (*DATA, "backbone.depth=3", "backbone.velocity_head=1")
SMALL = (*SIZES, "backbone.width=32", "backbone.block.mixer.heads=2")
JAX = (*SIZES, "backbone.width=64", "backbone.block.mixer.heads=4")
JAX += ("backbone.tokens={class: 3, omega: 2, t_min: 1, t_max: 1, span: 2}",)


def inputs(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    return numbers.inputs


def first(x: Array) -> Array:
    """Channels before rows and columns."""
    return x.transpose(0, 3, 1, 2)


def network(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    given = dict(numbers.inputs)
    return {**given, "x": first(given["x"]), "span": given["h"]}


def heads(out: Any, numbers: Numbers, spec: Any) -> Array:
    return np.stack([np.moveaxis(array, 1, -1) for array in out.values()])


def loss(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    """The first half of the batch has no span; no label is dropped."""
    u, u_r, noise, t_min, t_max, omega, drop = numbers.noise
    count = len(drop)
    return {
        "x": first(numbers.inputs["images"]),
        "y": numbers.inputs["labels"],
        "u": u.ravel(),
        "u_r": u_r.ravel(),
        "instant": np.where(np.arange(count) < count // 2, 0, 1).astype(np.float32),
        "noise": first(noise),
        "t_min": t_min.ravel() / 2,
        "t_max": t_max.ravel() / 2 + np.float32(0.5),
        "omega": np.exp(omega.ravel() * np.log(8)),
        "drop": drop,
    }


def sampler(omega: float, t_min: float, t_max: float) -> Any:
    def inputs(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
        (noise,) = numbers.noise
        settings = {"omega": omega, "t_min": t_min, "t_max": t_max}
        told = {name: np.full(len(noise), value, np.float32) for name, value in settings.items()}
        return {"x": first(noise), "y": np.arange(len(noise)), **told}

    return inputs


def last(out: Any, numbers: Numbers, spec: Any) -> Array:
    return np.moveaxis(np.asarray(out), 1, -1)


def sampled(steps: int, *settings: float) -> Sampler:
    defaults = (f"conditioning.{n}.default={v}" for n, v in zip(("omega", "t_min", "t_max"), settings, strict=True))
    name, sizes = f"imf.sampler_{steps}step", (*JAX, f"sampler.steps={steps}", *defaults)
    return Sampler(name, "improved_mean_flow", sizes, sampler(*settings), output=last, names="jax")


# The emitted model has that head, for training, so it does not load such a checkpoint; bundles do.
BUNDLES = ("oracle", "onnxruntime", "openvino")
CASES = [
    Sampler("imf.evaluation", "improved_mean_flow", SMALL, inputs, variant="B/2", backends=BUNDLES),
    Forward(
        "imf",
        "improved_mean_flow",
        JAX,
        network,
        wanted=lambda numbers: np.stack([numbers.outputs["out.u"], numbers.outputs["out.v"]]),
        output=heads,
        every_output=True,
        method="train_forward",
        names="jax",
    ),
    Loss(
        "imf.loss",
        "improved_mean_flow",
        JAX,
        loss,
        wanted=lambda numbers: numbers.outputs["out.loss"],
        names="jax",
    ),
    sampled(1, 5.0, 0.1, 0.9),
    sampled(3, 2.5, 0.0, 0.7),
]
