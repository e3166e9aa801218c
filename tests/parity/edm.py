"""EDM (Karras et al. 2022): DDPM++ and NCSN++, and ADM's network in its form; four preconditionings.

The authors' networks return the denoised sample, ours what the network predicts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from cases import Array, Arrays, Case, Forward, Loss, Sampler
from parity_data import Numbers

from latentc.components.processes.prediction import conversion
from latentc.components.samplers.grid import nearest

SIZES = ("data.shape=[3, 16, 16]", "data.classes=10", "backbone.width=32", "backbone.multipliers=[1, 2]")
SIZES += ("backbone.blocks=1", "backbone.attention=[1]")
SONG = (*SIZES, "conditioning.time.frequencies=32")
NCSN = (*SIZES, "conditioning.time.frequencies=64")
ADM = (*SIZES, "conditioning.time.frequencies=32")
IDDPM = (*ADM, "objective.process={kind: discrete, schedule: cosine, prior: marginal}", "objective.predicts=noise")
IDDPM += ("objective.variance=learned_range",)


def point(numbers: Numbers, spec: Any) -> tuple[Array, Array, Array, Any]:
    """(alpha, scale of the network's input, its time, the process) at the levels sigma of the numbers."""
    process = spec.objective.process
    times = process.time_of_level(numbers.inputs["sigma"].astype(np.float64))
    at = process.point(times)
    return at.alpha, at.scale, process.point(nearest(process, times)).time, at


def inputs(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    alpha, scale, time, _ = point(numbers, spec)
    x = (alpha * scale)[:, None, None, None] * numbers.inputs["x"]
    return {"x": x, "t": time, "y": numbers.inputs["class_labels"], "augment": augment(numbers, len(x))}


def augment(numbers: Numbers, count: int) -> Array:
    return numbers.inputs.get("augment_labels", np.zeros((count, 9), np.float32))


def denoised(out: Array, numbers: Numbers, spec: Any) -> Array:
    """D(x; sigma) from the prediction."""
    alpha, _, _, at = point(numbers, spec)
    a, b = (c[:, None, None, None] for c in conversion(spec.objective.predicts, "x0", at))
    return a * alpha[:, None, None, None] * numbers.inputs["x"] + b * out[:, : numbers.inputs["x"].shape[1]]


def loss_inputs(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    u, noise = numbers.noise
    given = {"x": numbers.inputs["images"], "y": numbers.inputs["labels"].argmax(1), "u": u.reshape(-1), "noise": noise}
    return {**given, "augment": augment(numbers, len(u))}


def from_the_noise(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    """The authors' VP loss counts time from the noise."""
    given = loss_inputs(numbers, spec)
    return {**given, "u": 1 - given["u"]}


def per_sample(numbers: Numbers) -> Array:
    """The authors' weighted error per element, as a mean per sample."""
    return numbers.outputs["out"].mean(axis=(1, 2, 3), dtype=np.float64)


def sampler_inputs(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    latents = numbers.inputs["latents"].astype(np.float32)
    given = {"x": latents, "y": numbers.inputs["class_labels"], "augment": augment(numbers, len(latents))}
    return {**given, "noise": np.stack(numbers.noise)} if numbers.noise else given


def forward(numbers: str, sizes: tuple[str, ...], variant: str) -> Case:
    return Forward(numbers, "edm", sizes, inputs, variant, output=denoised)


def sampled(numbers: str, sizes: tuple[str, ...], sampler: str, variant: str) -> Case:
    return Sampler(numbers, "edm", (*sizes, f"sampler={sampler}"), sampler_inputs, variant)


def loss(numbers: str, sizes: tuple[str, ...], variant: str, inputs: Arrays = loss_inputs) -> Case:
    return Loss(numbers, "edm", sizes, inputs, variant, wanted=per_sample)


CHURN = "{kind: heun, steps: 10, churn: {amount: 40, min: 0.05, max: 50, noise: 1.003}}"
VE = "{kind: euler, steps: 10, over: variance, spacing: {kind: log_snr, sigma_min: 0.02, sigma_max: 100}}"
VP = "{kind: euler, steps: 10, over: vp_time, scaling: vp, spacing: {kind: vp_levels}}"
HEUN6 = "{kind: heun, steps: 6, spacing: {kind: iddpm_levels, rounded: true}}"
CASES = [
    forward("edm.edm-song", SONG, "cifar10"),
    forward("edm.edm-song.augment", SONG, "cifar10"),
    forward("edm.ddpmpp_VP", SONG, "cifar10-vp"),
    forward("edm.ncsnpp_VE", NCSN, "cifar10-ve"),
    forward("edm.adm_EDM", ADM, "imagenet64"),
    forward("edm.iddpm", IDDPM, "imagenet64"),
    loss("edm.loss_EDM", SONG, "cifar10"),
    loss("edm.loss_VP", SONG, "cifar10-vp", from_the_noise),
    loss("edm.loss_VE", NCSN, "cifar10-ve"),
    sampled("edm.sampler_edm10_churn0", SONG, "{kind: heun, steps: 10}", "cifar10"),
    sampled("edm.sampler_edm10_churn40", SONG, CHURN, "cifar10"),
    sampled("edm.sampler_abl_vp_euler10", SONG, VP, "cifar10-vp"),
    sampled("edm.sampler_abl_ve_euler10", NCSN, VE, "cifar10-ve"),
    sampled("edm.sampler_abl_iddpm_heun6", IDDPM, HEUN6, "imagenet64"),
]
