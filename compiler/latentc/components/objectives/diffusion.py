"""Denoising diffusion: DDPM's simple loss, and improved DDPM's hybrid loss where the variance is learned.

Symbols: B batch, C channels; x0 the data, x_t the data noised to level t.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from latentc.components.contract import Draw, Need, Network, Update
from latentc.components.kit import Conditions, call, per_sample_mean
from latentc.components.objectives._common import publish
from latentc.components.parts import Objective, Problem
from latentc.components.schedules import Schedule, ScheduleKind, schedule
from latentc.ir.builder import Builder, ModuleBuilder, Var, i64
from latentc.ir.types import B

if TYPE_CHECKING:
    from latentc.spec.schema import Spec


class Diffusion(Objective):
    """Ho et al. 2020 (arXiv:2006.11239); learned variance after Nichol and Dhariwal 2021 (arXiv:2102.09672)."""

    kind: Literal["diffusion"]
    schedule: ScheduleKind = Field("linear", description="how the noise grows with the level")
    steps: int = Field(1000, gt=1, le=100_000, description="number of noise levels (T)")
    beta_start: float | None = Field(None, gt=0, lt=1, description="first beta; null: the schedule's own")
    beta_end: float | None = Field(None, gt=0, lt=1, description="last beta; null: the schedule's own")
    predicts: Literal["noise", "x0", "velocity"] = Field("noise", description="what the network's output means")
    variance: Literal["learned_range", "fixed_small", "fixed_large"] = Field(
        "fixed_small", description="of the reverse steps; learned_range doubles the network's output channels"
    )
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "diffusion", "steps": 100}

    def needs(self, spec: Spec) -> tuple[Need, ...]:
        return (Need("main", "denoise"),)

    def problems(self, spec: Spec) -> Iterator[Problem]:
        if self.schedule == "linear" and self.beta_end is None and self.steps < 21:
            message = f"the linear schedule's betas exceed 1 with {self.steps} levels"
            yield Problem(("steps",), message, "use 21 levels or more, or give `beta_start` and `beta_end`")

    def levels(self) -> Schedule:
        """The schedule's numbers."""
        return schedule(self.schedule, self.steps, self.beta_start, self.beta_end)

    @property
    def learns_variance(self) -> bool:
        return self.variance == "learned_range"

    def out_channels(self, channels: int) -> int:
        return 2 * channels if self.learns_variance else channels

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> tuple[Update, ...]:
        network, conditions = networks["main"], Conditions(spec, networks)
        b = mb.function("loss.terms")
        x0 = b.input("x", network.methods["forward"].input("state").type)
        given = conditions.inputs(b, by_field=True)
        t = b.input("t", i64(B))
        noise = b.input("noise", x0.type)
        levels = self.levels()
        alpha, sigma = _at(b, levels.alpha, t, "alpha"), _at(b, levels.sigma, t, "sigma")
        x_t = b.op("add", alpha * x0, sigma * noise, out="x_t")
        told = conditions.dropped(b, conditions.operands(b, given))
        out = call(b, network, "forward", told, state=x_t, time=b.cast(t, to="f32", out="time"), out="prediction")
        target = {"noise": noise, "x0": x0}.get(self.predicts)
        if target is None:
            target = b.op("sub", alpha * noise, sigma * x0, out="target")
        if not self.learns_variance:
            error = b.op("sub", target, out, out="error")
            mse = per_sample_mean(b, error * error, out="mse")
            b.output(mse)
            b.finish("The mean squared error of the prediction, a value a sample.")
            names: tuple[str, ...] = ("loss",)
        else:
            channels = x0.shape[1]
            out, fraction = b.split(out, axis=1, sizes=(channels, channels), out="prediction fraction")
            error = b.op("sub", target, out, out="error")
            mse = per_sample_mean(b, error * error, out="mse")
            vb = self._variational_bound(b, levels, x0, x_t, b.stop_gradient(out), fraction, t, alpha, sigma)
            b.output(mse + vb, mse, vb)
            b.finish("Improved DDPM's hybrid loss: mean squared error plus variational bound, a value a sample each.")
            names = ("loss", "mse", "vb")
        draws = (Draw("t", "integers", {"high": self.steps}), Draw("noise", "normal"), *conditions.draws())
        return publish(mb, names, ("x", *conditions.fields), draws)

    def _variational_bound(
        self,
        b: Builder,
        levels: Schedule,
        x0: Var,
        x_t: Var,
        prediction: Var,
        fraction: Var,
        t: Var,
        alpha: Var,
        sigma: Var,
    ) -> Var:
        """Bits a dimension between the true and the predicted reverse step, or at t = 0 of the data (f32[B])."""
        betas, bar = levels.betas, levels.alphas_cumprod
        before = np.append(1.0, bar[:-1])
        posterior_variance = betas * (1 - before) / (1 - bar)
        log_small = np.log(np.append(posterior_variance[1], posterior_variance[1:]))
        of_x0 = _at(b, betas * np.sqrt(before) / (1 - bar), t, "of_x0")
        of_x_t = _at(b, (1 - before) * np.sqrt(1 - betas) / (1 - bar), t, "of_x_t")
        true_log_variance = _at(b, log_small, t, "true_log_variance")
        log_large = _at(b, np.log(betas), t, "log_large")
        share = b.op("mul", fraction + 1.0, 0.5, out="share")
        log_variance = b.op("add", share * log_large, (1.0 - share) * true_log_variance, out="log_variance")
        if self.predicts == "noise":
            x0_hat = (x_t - sigma * prediction) / alpha
        elif self.predicts == "x0":
            x0_hat = prediction
        else:
            x0_hat = alpha * x_t - sigma * prediction
        share_of_x_t = b.op("mul", of_x_t, x_t, out="share_of_x_t")
        true_mean = b.op("add", of_x0 * x0, share_of_x_t, out="true_mean")
        mean = b.op("add", of_x0 * x0_hat, share_of_x_t, out="mean")
        gap = b.op("sub", true_mean, mean, out="gap")
        ratio = b.exp(true_log_variance - log_variance, out="ratio")
        twice = log_variance - true_log_variance - 1.0 + ratio + gap * gap * b.exp(-log_variance)
        kl = b.op("mul", 0.5, twice, out="divergence")
        nll = -_discretised_log_likelihood(b, x0, mean, 0.5 * log_variance)
        bits = 1 / math.log(2)
        kl, nll = (per_sample_mean(b, term, out=label) * bits for term, label in ((kl, "kl"), (nll, "nll")))
        return b.where(b.equal(t, 0), nll, kl, out="vb")  # type: ignore[no-any-return]


def _at(b: Builder, table: np.ndarray[Any, Any], t: Var, name: str) -> Var:
    """Row t of a table over the levels, as f32[B, 1, 1, 1]."""
    row = b.take(b.constant(table, out=f"{name}_table"), t, axis=0)
    return b.reshape(row, shape=(t.shape[0], 1, 1, 1), out=name)  # type: ignore[no-any-return]


def _normal_cdf(b: Builder, x: Var, out: str) -> Var:
    """Phi(x) by the tanh approximation that the published code uses (Page 1977)."""
    tanh = b.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x))
    return b.op("mul", 0.5, 1.0 + tanh, out=out)  # type: ignore[no-any-return]


def _discretised_log_likelihood(b: Builder, x: Var, mean: Var, log_scale: Var) -> Var:
    """log P of 8-bit data in [-1, 1] under a Gaussian integrated over each level's bin (Ho et al. 2020)."""
    centred = b.op("sub", x, mean, out="centred")
    inverse = b.exp(-log_scale, out="inverse")
    above = _normal_cdf(b, b.op("mul", inverse, centred + 1 / 255, out="upper"), "above")
    below = _normal_cdf(b, b.op("mul", inverse, centred - 1 / 255, out="lower"), "below")

    def log(p: Var) -> Var:
        return b.log(b.maximum(p, 1e-12))  # type: ignore[no-any-return]

    inner = b.where(b.greater(x, 0.999), log(1.0 - below), log(above - below), out="inner")
    return b.where(b.less(x, -0.999), log(above), inner)  # type: ignore[no-any-return]
