"""MDLM (Sahoo et al. 2024): the network, the loss with padding, and the sampler of both predictors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from cases import Array, Forward, Loss, Sampler
from maskgit import uniforms
from parity_data import Numbers

MASK, LEAST = 20, 1e-3
SIZES = (
    *("data.fields.tokens={shape: [12], classes: 20, medium: array, tokenizer: null}", "backbone.width=48"),
    *("backbone.depth=2", "backbone.condition_width=24", "backbone.block.mixer.heads=3"),
)
PADDED = "data.fields.tokens_mask={shape: [12], dtype: bool}"
SAMPLER = ("sampler.steps=5",)


def noisy(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    return {"idx": numbers.inputs["x"]}


def substituted(logits: Array, numbers: Numbers, spec: Any) -> Array:
    """Log-probabilities, of visible tokens those of the tokens themselves; impossible ones are recorded as -100."""
    x, known = numbers.inputs["x"], logits[..., :MASK].astype(np.float64)
    log_p = known - known.max(-1, keepdims=True)
    log_p -= np.log(np.exp(log_p).sum(-1, keepdims=True))
    log_p = np.concatenate([log_p, np.full((*x.shape, 1), -100.0)], axis=-1)
    visible = np.where(np.arange(MASK + 1) == x[..., None], 0.0, -100.0)
    return np.where(x[..., None] == MASK, log_p, visible)


def batch(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    u, v = numbers.noise
    return {"tokens": numbers.inputs["x0"], "tokens_mask": numbers.inputs["mask"] > 0, "u": u, "v": v}


def races(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    """Uniforms that draw what the authors drew, by races of exponentials, from their probabilities."""
    p = numbers.outputs["out.probs"].astype(np.float64)
    noise = np.stack(numbers.noise).astype(np.float32)
    drawn = (p / (1e-10 - np.log(noise + np.float32(1e-10)))).argmax(-1)
    with np.errstate(divide="ignore"):
        return {"u": uniforms(np.log(p), drawn)}


ANALYTIC = (*SIZES, *SAMPLER, "backbone.time=noise", "sampler.end=drawn")
CASES = [
    Forward("mdlm.dit", "mdlm", SIZES, noisy, output=substituted, wanted=lambda n: n.outputs["out.log_p"]),
    Loss("mdlm.loss", "mdlm", (*SIZES, PADDED), batch, wanted=lambda n: n.outputs["out.loss"]),
    Sampler("mdlm.sampler_cache", "mdlm", (*SIZES, *SAMPLER), races, wanted=lambda n: n.outputs["out.ids"]),
    Sampler("mdlm.sampler_analytic", "mdlm", ANALYTIC, races, wanted=lambda n: n.outputs["out.ids"]),
]
