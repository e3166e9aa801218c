"""EEGWave: the network at fractional times under three conditions, its loss, and a predictor-corrector sample."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from cases import Array, Case, Forward, Loss, Sampler
from parity_data import Numbers

SIZES = ("data.fields.x.shape=[5, 24]", "data.fields.y.classes=2", "data.fields.subject.classes=3")
SIZES += ("data.fields.session.classes=2", "conditioning.time.frequencies=8")
SIZES += ("backbone.width=16", "backbone.depth=3", "backbone.cycle=2")
SIZES += ("backbone.time_width=20", "backbone.hidden=24", "backbone.vector_width=8")
# The authors measure norms over the batch; their eps of 1e-5 was recorded as 1e-3, where their float32 is exact enough.
SIX = (*SIZES, "sampler.steps=6", "sampler.norms=batch", "objective.process.beta_max=4", "objective.process.eps=1e-3")


def labels(numbers: Numbers) -> dict[str, Array]:
    return dict(zip(("y", "subject", "session"), numbers.inputs["y"].T, strict=True))


def inputs(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    return {"x": numbers.inputs["x"], "t": numbers.inputs["t"], **labels(numbers)}


def loss_inputs(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    u, noise = numbers.noise
    return {"x": numbers.inputs["batch"], "u": u, "noise": noise, **labels(numbers)}


def sampler_inputs(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    first, *rest = numbers.noise
    given = labels(numbers)
    return {"x": first, "noise": np.stack(rest), "class": given["y"], **given}


CASES: list[Case] = [
    Forward("eegwave", "eeg", SIZES, inputs),
    Loss("eegwave.loss", "eeg", SIZES, loss_inputs),
    Sampler("eegwave.sampler_pc", "eeg", SIX, sampler_inputs),
]
