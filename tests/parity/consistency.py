"""Consistency models (Song et al. 2023): ADM's network with the time 250 log(sigma), both losses, the sampler; the
consistency function and the loss of ECT (Geng et al. 2024), on EDM's network.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from cases import Array, Forward, Loss, Sampler
from parity_data import Numbers

from latentc.components.processes.prediction import conversion

SIZES = ("data.shape=[3, 16, 16]", "data.classes=10", "conditioning.time.frequencies=32", "backbone.width=32")
SIZES += ("backbone.multipliers=[1, 2]", "backbone.blocks=1", "backbone.attention=[1]")
SIZES += ("backbone.block={qkv: parts, head_channels: 16}",)
BASE = "base: {kind: diffusion, process: {kind: edm, time_factor: 250}, predicts: preconditioned}"
NETWORKS = {"main": "model.", "target": "target."}
GRID = 40  # levels


def network(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    sigma, process = numbers.inputs["sigmas"].astype(np.float64), spec.objective.parameterization().process
    point = process.point(sigma)
    x = point.scale[:, None, None, None] * numbers.inputs["x_t"]
    return {"x": x, "t": point.time, "y": numbers.inputs["y"]}


def loss(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    noise, pair = numbers.noise
    given = {"x": numbers.inputs["x_start"], "y": numbers.inputs["y"], "noise": noise, "pair": pair}
    return {**given, "drop": np.ones(len(pair), np.float32)}


def mean(numbers: Numbers) -> Array:
    return numbers.outputs["out.loss"].astype(np.float64)


def sampler(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    first, *steps = numbers.noise
    return {"x": first, "y": numbers.inputs["y"], "noise": np.stack(steps)}


def objective(kind: str, steps: int, *more: str) -> str:
    return f"objective={{{', '.join((f'kind: {kind}', f'steps: {steps}', *more, BASE))}}}"


def easy(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    sigma, process = numbers.inputs["sigma"].astype(np.float64), spec.objective.parameterization().process
    point = process.point(sigma)
    x = point.scale[:, None, None, None] * numbers.inputs["x"]
    return {"x": x, "t": point.time, "y": numbers.inputs["class_labels"]}


def easy_loss(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    u, noise = numbers.noise
    given = {"x": numbers.inputs["images"], "y": numbers.inputs["labels"].argmax(axis=1), "noise": noise}
    return {**given, "u": u.reshape(-1), "training_step": np.asarray(numbers.meta["kwargs"]["stage"])}


def end(out: Array, numbers: Numbers, spec: Any) -> Array:
    """f(x, sigma) from the prediction."""
    target = spec.objective.parameterization()
    point = target.process.point(numbers.inputs["sigma"].astype(np.float64))
    (a, b), (skip, scale) = conversion(target.predicts, "x0", point), target.boundary.coefficients(point)
    of_x, of_out = (part[:, None, None, None] for part in (skip + scale * a, scale * b))
    return of_x * numbers.inputs["x"] + of_out * out


TARGET = ("networks.target={kind: average, decay: 0.95}", "networks.perceptual=null")
TEACHER = "networks.teacher={kind: like, pretrained: teacher.safetensors}"
OPTIONS = ("target: target", "solver: heun", "distance: l1", "weighting: edm")
DISTILLATION = objective("consistency_distillation", GRID - 1, *OPTIONS)
TRAINING = objective("consistency_training", 17, "target: target", "distance: l2")
ALONE = ("networks.target=null", "networks.perceptual=null", objective("consistency_training", 17))
JUMPS = (*ALONE, f"sampler.spacing.levels={GRID}", "sampler.spacing.at=[0, 22]", "sampler.steps=2")
EASY = ("data.shape=[3, 8, 8]", "data.classes=10", "backbone.width=16", "backbone.multipliers=[1, 2]")
EASY += ("backbone.blocks=1", "backbone.attention=[1]", "backbone.embedding=2", "backbone.early=[class]")
EASY += ("data.augment=0", "conditioning.augment=null", "conditioning.time.frequencies=16", "sampler=null")
TUNING = "p_mean: -1.1, p_std: 2.0}, q: 2, k: 8.0, b: 1.0, c: 0.03, stages: 4, over: 4"
EASY += (f"objective={{kind: easy_consistency_tuning, process: {{kind: edm, {TUNING}}}",)
CASES = [
    Forward(
        "cm",
        "cm",
        SIZES,
        network,
        wanted=lambda numbers: numbers.outputs["out.model"],
    ),
    Loss(
        "cm.loss_distillation",
        "cm",
        (*SIZES, *TARGET, TEACHER, DISTILLATION, "sampler=null"),
        loss,
        wanted=mean,
        tolerance=2e-5,
        why="the authors' rounding error is 1e-5, after a step of the teacher from the level 80",
        prefixes={**NETWORKS, "teacher": "teacher."},
    ),
    Loss(
        "cm.loss_training",
        "cm",
        (*SIZES, *TARGET, TRAINING, "sampler=null"),
        loss,
        wanted=mean,
        prefixes=NETWORKS,
    ),
    Sampler("cm.sampler_multistep", "cm", (*SIZES, *JUMPS), sampler),
    Forward("ect", "edm", EASY, easy, output=end),
    Loss("ect.loss", "edm", EASY, easy_loss, wanted=mean, scale=4.0),
]
