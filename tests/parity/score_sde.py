"""Score SDEs (Song et al. 2021): NCSN++, DDPM++ and DDPM, losses, predictor-corrector and ODE samplers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from cases import Array, Forward, Loss, Sampler
from parity_data import Numbers

SIZES = ("data.fields.x.shape=[3, 16, 16]", "backbone.width=32", "backbone.multipliers=[1, 2]", "backbone.blocks=1")
SIZES += ("backbone.attention=[1]",)
VE = (*SIZES, "conditioning.time.frequencies=64")
SKIPS = ("data.fields.x.shape=[3, 8, 8]", "sampler.steps=10", "backbone.multipliers=[1, 1, 2]", "backbone.attention=[]")
# The authors' configuration of these numbers has data in [0, 1] for the VP SDE too.
VP = (*SIZES, "conditioning.time.frequencies=32", "backbone.recentre=true")


def ve_inputs(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    return {"x": numbers.inputs["x"], "t": np.log(numbers.inputs["time_cond"])}


def classifier_inputs(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    return {"x": numbers.inputs["x"], "t": np.log(numbers.inputs["sigmas"])}


def over_sigma(out: Array, numbers: Numbers, spec: Any) -> Array:
    """Their network returns the score."""
    return out / numbers.inputs["time_cond"][:, None, None, None]


def vp_inputs(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    return {"x": numbers.inputs["x"], "t": numbers.inputs["time_cond"]}


def ddpm_inputs(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    return {"x": numbers.inputs["x"], "t": numbers.inputs["labels"].astype(np.float32)}


def over_level(out: Array, numbers: Numbers, spec: Any) -> Array:
    levels = np.geomspace(50, 0.01, 1000)[numbers.inputs["labels"]]
    return out / levels[:, None, None, None]


def loss_inputs(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    u, noise = numbers.noise
    return {"x": numbers.inputs["batch"], "u": u, "noise": noise}


def from_noise(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    first, *rest = numbers.noise
    return {"x": first, "noise": np.stack(rest)}


def from_z(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    return {"x": numbers.inputs["z"]}


def corrected(numbers: str, sizes: tuple[str, ...], variant: str, sampler: str) -> Sampler:
    text = f"sampler={{kind: predictor_corrector, steps: 5, norms: batch, {sampler}}}"
    return Sampler(numbers, "score_sde", (*sizes, text), from_noise, variant)


RK45 = "sampler={kind: dopri5, rtol: 1e-3, atol: 1e-3, norm: batch, max_steps: 12}"
CASES = [
    Forward(
        "score_sde.classifier",
        "score_sde_classifier",
        ("data.fields.x.shape=[3, 16, 16]", "backbone.blocks=2", "backbone.multiplier=1"),
        classifier_inputs,
    ),
    Forward("score_sde.ncsnpp_fir", "score_sde", VE, ve_inputs, "ve-ncsnpp", output=over_sigma),
    Forward("score_sde.ncsnpp_skip", "score_sde", SKIPS, ve_inputs, "ve-ncsnpp-ffhq1024", output=over_sigma),
    Forward("score_sde.ddpmpp", "score_sde", VP, vp_inputs, "vp-ddpmpp"),
    Forward("score_sde.ddpm", "score_sde", VP, ddpm_inputs, "vp-ddpm", output=over_level),
    Loss("score_sde.loss_ve", "score_sde", (*VE, "objective.reduction=mean"), loss_inputs, "ve-ncsnpp"),
    Loss("score_sde.loss_vp", "score_sde", VP, loss_inputs, "vp-ddpmpp"),
    corrected("score_sde.sampler_pc_ve", VE, "ve-ncsnpp", "snr: 0.16"),
    corrected("score_sde.sampler_pc_vp", VP, "vp-ddpmpp", "predictor: euler_maruyama, corrector: none"),
    corrected(
        "score_sde.sampler_pc_vp_langevin",
        (*VP, "objective.process.beta_max=4"),
        "vp-ddpmpp",
        "snr: 0.1, corrector_steps: 2",
    ),
    Sampler("score_sde.sampler_ode_vp", "score_sde", (*VP, "objective.process.eps=1e-2", RK45), from_z, "vp-ddpmpp"),
]
