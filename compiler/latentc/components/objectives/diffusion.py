"""Denoising diffusion: DDPM's simple loss, and improved DDPM's hybrid loss if the variance is learned.

Symbols: B batch, C channels; x0 the data, x_t the data noised to time t.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from latentc.components import OneOf
from latentc.components.kit import per_sample_mean
from latentc.components.objectives.denoising import DenoisingLoss, DenoisingObjective, Noised, Terms
from latentc.components.parts import Problem, Spec
from latentc.components.processes.discrete import Discrete
from latentc.components.processes.formulas import Symbolic
from latentc.components.processes.prediction import conversion, posterior
from latentc.components.processes.process import Parameterization, Process, Variance
from latentc.components.sums import weighted_sum
from latentc.ir.builder import Builder, Var


class DiffusionLoss(DenoisingLoss):
    """The loss of a denoiser on a forward process, and improved DDPM's bound if the variance is learned."""

    process: Annotated[Process, OneOf("processes")] = Field(
        Discrete(kind="discrete"), description="the forward process, from data to noise"
    )
    predicts: Literal["noise", "x0", "velocity", "score", "scaled_score", "preconditioned"] = Field(
        "noise", description="the quantity the network predicts"
    )
    variance: Variance = Field(
        "fixed_small", description="variance of the reverse steps; learned_range doubles the network's output channels"
    )
    error_norm: Literal["l2", "l1"] = Field(
        "l2", description="error of the prediction: squared, or absolute (DiffWave)"
    )

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from super().problems(spec)
        if self.variance == "learned_range" and not isinstance(self.process, Discrete):
            message = f"a learned variance needs a process with discrete steps, but `{self.process.kind}` has none"
            yield Problem(("variance",), message, "use fixed_small or fixed_large")
        if self.variance == "learned_range" and self.error_norm == "l1":
            message = "the hybrid loss of a learned variance is defined for the squared error only"
            yield Problem(("error_norm",), message, "use `l2`, or another `variance`")

    def parameterization(self) -> Parameterization:
        return Parameterization(self.process, self.predicts, self.variance)

    @property
    def learns_variance(self) -> bool:
        return self.variance == "learned_range"

    def out_channels(self, channels: int) -> int:
        return 2 * channels if self.learns_variance else channels

    def says(self) -> str:
        if not self.learns_variance:
            error = "squared" if self.error_norm == "l2" else "absolute"
            return f"The mean {error} error of the prediction, one value per sample."
        return "Improved DDPM's hybrid loss: mean squared error plus variational bound, one value per sample each."

    def cost(self, b: Builder, error: Var) -> Var:
        """Elementwise cost of an error."""
        return error * error if self.error_norm == "l2" else b.abs(error)

    def loss(self, at: Noised, prediction: Var) -> Terms:
        b, channels = at.b, at.x0.shape[1]
        if not self.learns_variance:
            return {"loss": per_sample_mean(b, self.cost(b, at.error(prediction)), out="loss")}
        prediction, fraction = b.split(prediction, axis=1, sizes=(channels, channels), out="prediction fraction")
        error = at.error(prediction)
        mse = per_sample_mean(b, error * error, out="mse")
        vb = variational_bound(at, b.stop_gradient(prediction), fraction)
        return {"loss": mse + vb, "mse": mse, "vb": vb}


class Diffusion(DenoisingObjective, DiffusionLoss):
    """Ho et al. 2020 (arXiv:2006.11239); learned variance after Nichol and Dhariwal 2021 (arXiv:2102.09672).

    On the process `edm` with `predicts: preconditioned` it is the loss of Karras et al. 2022 (arXiv:2206.00364); on
    `vp` (noise) and `ve` (scaled_score) that of Song et al. 2021 (arXiv:2011.13456).
    """

    kind: Literal["diffusion"]
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "diffusion", "process": {"kind": "discrete", "steps": 100}}


def variational_bound(at: Noised, prediction: Var, fraction: Var) -> Var:
    """Bits per dimension between the true and the predicted reverse step, or at t = 0 of the data (f32[B])."""
    b, x0, x_t, t, process, predicts = at.b, at.x0, at.x_t, at.t, at.target.process, at.target.predicts
    m, times = Symbolic(b, x0.type.rank), np.arange(process.first + 1)
    point = process.point(times)
    step = posterior(point, process.point(times - 1))
    log_small = np.log(np.append(step.variance[1], step.variance[1:]))
    coef1 = m.row(step.coef1, t, "posterior_mean_coef1")
    coef2 = m.row(step.coef2, t, "posterior_mean_coef2")
    true_log_variance = m.row(log_small, t, "posterior_log_variance")
    log_beta = m.row(np.log(step.added), t, "log_beta")
    weight = b.op("mul", fraction + 1.0, 0.5, out="weight")
    log_variance = b.op("add", weight * log_beta, (1.0 - weight) * true_log_variance, out="log_variance")
    a, c = conversion(predicts, "x0", point)
    terms = [(m.row(column, t, name), v) for column, name, v in ((a, "c_skip", x_t), (c, "c_out", prediction))]
    x0_hat = prediction if predicts == "x0" else weighted_sum(b, "x0_hat", *terms)
    from_x_t = b.op("mul", coef2, x_t, out="from_x_t")
    true_mean = b.op("add", coef1 * x0, from_x_t, out="true_mean")
    mean = b.op("add", coef1 * x0_hat, from_x_t, out="mean")
    difference = b.op("sub", true_mean, mean, out="difference")
    ratio = b.exp(true_log_variance - log_variance, out="ratio")
    twice = log_variance - true_log_variance - 1.0 + ratio + difference * difference * b.exp(-log_variance)
    kl = b.op("mul", 0.5, twice, out="divergence")
    nll = -_discretised_log_likelihood(b, x0, mean, 0.5 * log_variance)
    bits = 1 / math.log(2)
    kl, nll = (per_sample_mean(b, term, out=label) * bits for term, label in ((kl, "kl"), (nll, "nll")))
    return b.where(b.equal(t, 0), nll, kl, out="vb")


def _normal_cdf(b: Builder, x: Var, out: str) -> Var:
    """Phi(x) by the tanh approximation that the published code uses (Page 1977)."""
    tanh = b.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x))
    return b.op("mul", 0.5, 1.0 + tanh, out=out)


def _discretised_log_likelihood(b: Builder, x: Var, mean: Var, log_scale: Var) -> Var:
    """log P of 8-bit data in [-1, 1] under a Gaussian integrated over each level's bin (Ho et al. 2020)."""
    centred = b.op("sub", x, mean, out="centred")
    inverse = b.exp(-log_scale, out="inverse")
    above = _normal_cdf(b, b.op("mul", inverse, centred + 1 / 255, out="upper"), "above")
    below = _normal_cdf(b, b.op("mul", inverse, centred - 1 / 255, out="lower"), "below")

    def log(p: Var) -> Var:
        return b.log(b.maximum(p, 1e-12))

    inner = b.where(b.greater(x, 0.999), log(1.0 - below), log(above - below), out="inner")
    return b.where(b.less(x, -0.999), log(above), inner)
