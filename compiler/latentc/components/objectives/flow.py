"""Flow matching along an interpolant, with the paths, predictions and weightings of SiT.

Symbols: B batch; x1 the data, x0 the noise, x_t = alpha(t) x1 + sigma(t) x0 with t = 0 noise, t = 1 data.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from latentc.components.contract import Draw, Need, Network, Update
from latentc.components.kit import Conditions, call, per_sample_mean
from latentc.components.objectives._common import publish
from latentc.components.parts import Objective
from latentc.components.schedules import Path, PathKind, path
from latentc.ir.builder import Builder, ModuleBuilder, Var, f32
from latentc.ir.types import B

if TYPE_CHECKING:
    from latentc.spec.schema import Spec


class Flow(Objective):
    """Stochastic interpolants (SiT, Ma et al. 2024, arXiv:2401.08740; Lipman et al. 2022, arXiv:2210.02747)."""

    kind: Literal["flow"]
    path: PathKind = Field("linear", description="interpolant from noise to data")
    beta_min: float = Field(0.1, gt=0, description="vp path: noise rate at the data")
    beta_max: float = Field(20.0, gt=0, description="vp path: noise rate at the noise")
    predicts: Literal["velocity", "score", "noise"] = Field("velocity", description="what the network's output means")
    weighting: Literal["none", "velocity", "likelihood"] = Field(
        "none", description="of the loss of score and noise predictions, as in SiT, table 2"
    )
    train_eps: float | None = Field(
        None, ge=0, lt=0.5, description="distance kept from the ends of time in training; null: SiT's own"
    )
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "flow"}

    def needs(self, spec: Spec) -> tuple[Need, ...]:
        return (Need("main", "denoise"),)

    def interpolant(self) -> Path:
        """The path's functions of time."""
        return path(self.path, self.beta_min, self.beta_max)

    def time_range(self) -> tuple[float, float]:
        """Times drawn in training: away from where the prediction is singular."""
        if self.path == "vp":
            eps = 1e-5 if self.train_eps is None else self.train_eps
            return 0.0, 1.0 - eps
        if self.predicts == "velocity":
            return 0.0, 1.0
        eps = 1e-3 if self.train_eps is None else self.train_eps
        return eps, 1.0 - eps

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> tuple[Update, ...]:
        network, conditions = networks["main"], Conditions(spec, networks)
        b = mb.function("loss.terms")
        x1 = b.input("x", network.methods["forward"].input("state").type)
        given = conditions.inputs(b, by_field=True)
        u = b.input("u", f32(B))
        noise = b.input("noise", x1.type)
        start, stop = self.time_range()
        t = b.op("add", u * (stop - start), start, out="t") if (start, stop) != (0.0, 1.0) else u
        column = b.reshape(t, shape=(t.shape[0], 1, 1, 1), out="time")
        at = _interpolate(b, self, column)
        x_t = b.op("add", at.alpha * x1, at.sigma * noise, out="x_t")
        told = conditions.dropped(b, conditions.operands(b, given))
        out = call(b, network, "forward", told, state=x_t, time=t, out="prediction")
        if self.predicts == "velocity":
            error = b.op("sub", out, at.d_alpha * x1 + at.d_sigma * noise, out="error")
        elif self.predicts == "noise":
            error = b.op("sub", out, noise, out="error")
        else:
            error = b.op("add", out * at.sigma, noise, out="error")
        squared = error * error
        if self.predicts != "velocity" and self.weighting != "none":
            # The diffusion that turns a score into the velocity's share of it.
            drift = at.growth * at.sigma * at.sigma - at.sigma * at.d_sigma
            scale = drift / at.sigma
            weight = scale * scale if self.weighting == "velocity" else scale / at.sigma
            squared = squared * weight
        b.output(per_sample_mean(b, squared, out="loss"))
        b.finish("The weighted squared error of the prediction, a value a sample.")
        draws = (Draw("u", "uniform"), Draw("noise", "normal"), *conditions.draws())
        return publish(mb, ("loss",), ("x", *conditions.fields), draws)


@dataclass(frozen=True)
class _At:
    """The path at times of shape [B, 1, 1, 1]; `growth` is d_alpha / alpha."""

    alpha: Any
    sigma: Any
    d_alpha: Any
    d_sigma: Any
    growth: Any


def _interpolate(b: Builder, flow: Flow, t: Var) -> _At:
    """`latentc.components.schedules.path` as IR, for times that are only known when the loss runs."""
    if flow.path == "linear":
        return _At(t, 1.0 - t, 1.0, -1.0, 1.0 / t)
    if flow.path == "gvp":
        half = math.pi / 2
        alpha, sigma = b.sin(t * half, out="alpha"), b.cos(t * half, out="sigma")
        return _At(alpha, sigma, half * sigma, -half * alpha, half * sigma / alpha)
    left = 1.0 - t
    spread = flow.beta_max - flow.beta_min
    log_alpha = -0.25 * spread * left * left - 0.5 * flow.beta_min * left
    growth = 0.5 * spread * left + 0.5 * flow.beta_min
    alpha, square = b.exp(log_alpha, out="alpha"), b.exp(2.0 * log_alpha)
    sigma = b.sqrt(1.0 - square, out="sigma")
    return _At(alpha, sigma, alpha * growth, -(square * growth / sigma), growth)
