"""SEDD (Lou et al. 2024): the network, score entropy of both chains, and both predictors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from cases import Array, Forward, Loss, Sampler
from maskgit import uniforms
from mdlm import SIZES as ABSORB
from parity_data import Numbers

UNIFORM = (
    *("data.fields.tokens={shape: [10], classes: 16, medium: array, tokenizer: null}", "backbone.width=32"),
    *("backbone.depth=2", "backbone.condition_width=16", "backbone.block.mixer.heads=2", "objective.graph=uniform"),
    "objective.noise=geometric",
)


def network(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    return {"idx": numbers.inputs["x"], "sigma": numbers.inputs["sigma"].reshape(-1)}


def batch(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    """In the recording of the uniform chain the noise is so low that no token moves."""
    u, v = numbers.noise
    return {"tokens": numbers.inputs["x0"], "u": u, "v": v, "other": np.zeros_like(numbers.inputs["x0"])}


def draws(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    """Uniforms that draw what the authors drew, by races of exponentials, from their probabilities."""
    last = numbers.outputs["out.probs_last"]
    first = [noise for noise in numbers.noise if noise.ndim == 2]
    noise = [noise for noise in numbers.noise if noise.ndim == 3]
    u = []
    for p, race in zip([*numbers.outputs["out.probs"], last], noise, strict=True):
        drawn = (p / (1e-10 - np.log(race + np.float32(1e-10)))).argmax(-1)
        with np.errstate(divide="ignore"):
            u.append(uniforms(np.log(np.maximum(p, 0).astype(np.float64)), drawn))
    return {"u": np.stack(u), **({"first": first[0]} if first else {})}


SCORE, IDS = (lambda n: n.outputs["out.log_score"]), (lambda n: n.outputs["out.ids"])
LOSS = {"wanted": lambda n: n.outputs["out.loss"].mean()}
CASES = [
    Forward("sedd.absorb", "sedd", ABSORB, network, wanted=SCORE),
    Loss("sedd.loss_absorb", "sedd", ABSORB, batch, **LOSS),
    Loss("sedd.loss_uniform", "sedd", UNIFORM, batch, **LOSS),
    Sampler("sedd.sampler_absorb_analytic", "sedd", (*ABSORB, "sampler.steps=4"), draws, wanted=IDS),
    Sampler(
        "sedd.sampler_uniform_euler",
        "sedd",
        (*UNIFORM, "sampler={kind: ratio_steps, steps: 4, predictor: euler}"),
        draws,
        wanted=IDS,
    ),
]
