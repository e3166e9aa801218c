"""DiffWave: the vocoder, without a spectrogram at a fractional step, and sampled by both of the authors' schedules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from cases import Array, Case, Forward, Sampler
from parity_data import Numbers

SIZES = ("data.fields.x.shape=[1, 1024]", "backbone.width=16", "backbone.depth=4", "backbone.cycle=2")
MEL = (*SIZES, "data.fields.mel.shape=[80, 4]")
PLAIN = (*SIZES, "conditioning.time.levels=50", "objective.process.steps=50", "sampler.steps=50")
TEN = (*MEL, "objective.process.steps=10", "conditioning.time.levels=10", "sampler={kind: clipped_ddpm, steps: 10}")


def inputs(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    given = {"x": numbers.inputs["audio"][:, None], "t": numbers.inputs["diffusion_step"].astype(np.float32)}
    return given | ({"mel": numbers.inputs["spectrogram"]} if "mel" in spec.conditions else {})


def sampler_inputs(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    first, *rest = (noise[:, None] for noise in numbers.noise)
    noise = np.stack([*rest, np.zeros_like(first)])  # the last step takes none
    return {"x": first, "noise": noise, "mel": numbers.inputs["spectrogram"]}


def wave(out: Array, numbers: Numbers, spec: Any) -> Array:
    return out[:, 0]


CASES: list[Case] = [
    Forward("diffwave", "diffwave", MEL, inputs, tolerance=2e-5, why="float32 is 6e-6 away from float64 everywhere"),
    Forward("diffwave.uncond_float_step", "diffwave_sc09", PLAIN, inputs),
    Sampler("diffwave.sampler_fast6", "diffwave", MEL, sampler_inputs, output=wave),
    Sampler("diffwave.sampler_regular10", "diffwave", (*TEN, "sampler.clip_state=1"), sampler_inputs, output=wave),
]
