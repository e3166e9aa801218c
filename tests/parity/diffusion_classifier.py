"""The diffusion classifier (Li et al. 2023) on DiT: errors of all classes, by one program and one by one in rounds.

The rounds' times are those recorded: the authors step by the whole number 1000 // 6, ours are 1000 / 6 apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from cases import Array, Forward, Sampler
from parity_data import Numbers

SIZES = ("data.shape=[4, 4, 4]", "data.classes=5", "data.class_names=null", "backbone.width=48", "backbone.depth=2")
SIZES += ("backbone.block.mixer.heads=4",)
SCALED = "objective.process={kind: discrete, schedule: scaled_linear, beta_start: 0.00085, beta_end: 0.012}"
CLASSES = np.arange(5)


def program(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    """A row per class and trial. Either a trial's noise serves all times, or each time has a noise."""
    noise, count = numbers.inputs["noise"], spec.programs[0].trials
    trials = 1 if len(noise) == count else len(noise)
    noise = noise[:, None] if trials == 1 else np.broadcast_to(noise, (count, *noise.shape))
    x = np.repeat(numbers.inputs["latent"], 5 * trials, axis=0)
    return {"x": x, "y": np.repeat(CLASSES, trials), "noise": np.tile(noise, (1, 5, 1, 1, 1))}


def errors(numbers: Numbers) -> Array:
    """Means over the times, by class and trial."""
    return numbers.outputs["out.errors"].mean(axis=1, dtype=np.float64).ravel()


def classified(name: str, trials: int, norm: str, wanted: Any) -> Sampler:
    sizes, both = (*SIZES, f"programs=[{{kind: classify, trials: {trials}, norm: {norm}}}]"), ("oracle", "torch")
    return Sampler(name, "dit", sizes, program, wanted=wanted, tolerance=1e-5, program="classify", backends=both)


def of_trial(number: int) -> Any:
    return lambda numbers: numbers.outputs["out.errors"][..., 0, number].mean(axis=1, dtype=np.float64)


def predictions(numbers: Numbers) -> tuple[Array, Array, Array]:
    """(classes, times, noise) of all predictions in rounds."""
    times = [numbers.outputs[f"out.t.{k}"] for k in CLASSES]
    noise = np.concatenate([numbers.inputs["noise"][: len(t)] for t in times])
    return np.repeat(CLASSES, [len(t) for t in times]), np.concatenate(times), noise


def rounds(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    y, t, noise = predictions(numbers)
    point = spec.objective.process.point(t)
    alpha, sigma = (np.asarray(level)[:, None, None, None] for level in (point.alpha, point.sigma))
    return {"x": alpha * numbers.inputs["latent"] + sigma * noise, "t": t.astype(np.float32), "y": y}


def squared(out: Array, numbers: Numbers, spec: Any) -> Array:
    return np.mean((predictions(numbers)[2] - out[:, :4]) ** 2, axis=(1, 2, 3))


CASES = [
    classified("diffusion_classifier", 5, "squared", errors),
    classified("diffusion_classifier.vb", 4, "squared", of_trial(0)),
    classified("diffusion_classifier.vb", 4, "absolute", of_trial(1)),
    Forward(
        "diffusion_classifier.adaptive",
        "dit",
        (*SIZES, SCALED),
        rounds,
        wanted=lambda numbers: np.concatenate([numbers.outputs[f"out.errors.{k}"] for k in CLASSES]),
        output=squared,
        prefixes={"main": "dit."},
    ),
]
