"""Draws of continuous tokens from mixtures of Gaussians, and from two of them under guidance.

Symbols: N rows (tokens), C channels, M components, Q proposals of a rejection sampler.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from pydantic import Field

from latentc.components.guidance.guidance import ScheduledGuidance, token_guidance_problems
from latentc.components.parts import Problem, Spec, under
from latentc.components.sampler import Sampler
from latentc.ir.builder import Builder, Var
from latentc.systems.givt.mixture_transformer import MixtureTransformer
from latentc.systems.givt.mixtures_parts import Mixture, log_normal, of_component

LARGEST = 88.72
"""Logarithm of the largest ratio to the proposal's density: in published code one above it is infinite in float32, and
no proposal is accepted.
"""
POINTS = 1001
"""Points within 10 of the mean at which the ratio to the proposal's density is bounded, as published code does."""


class MixtureSampler(Sampler):
    """Draws tokens from predicted mixtures."""

    temperature: float = Field(1.0, ge=0, le=100, description="factor of the standard deviations (variance scaling)")
    sharpness: float = Field(1.0, gt=0, le=100, description="factor of the mixture component logits")
    guidance: ScheduledGuidance | None = Field(
        None,
        description="density guidance: scale s samples p^s q^(1 - s), where p is a component's density with the "
        "condition and q without; by rejection, per channel",
    )
    proposals: int = Field(100, gt=0, le=10_000, description="draws per token of the rejection sampler (Q)")

    def drawn(
        self,
        b: Builder,
        mixture: Mixture,
        raw: Var,
        channels: int,
        u: Var,
        z: Var,
        guided: tuple[Var, Var, Var, Var] | None = None,
        scored: bool = True,
    ) -> tuple[Var, Var | None]:
        """(x f32[N, C] of the mixtures, its log-density f32[N] if it is `scored`) from raw numbers f32[N, P].

        u f32[N, C or 1] is uniform and chooses a component, z f32[N, C] is normal. `guided`: raw numbers without the
        condition, the scale f32[N], proposals f32[N, Q, C] of normals and f32[N, Q, C] of uniform numbers; the density
        is then that of the component, and not normalised.
        """
        how = (self.temperature, self.sharpness)
        if guided is not None:
            return _guided(b, mixture, raw, channels, how, u, z, guided, scored)
        if mixture.correlated:
            mean, root = mixture.correlation(b, raw, channels, self.temperature)
            spread = b.matmul(root, b.reshape(z, shape=(*z.shape, 1)))
            x = b.add(mean, b.reshape(spread, shape=z.shape), out="x")
        else:
            mean, deviation, _ = _component(b, mixture, raw, channels, how, u)
            x = b.add(mean, b.mul(deviation, z), out="x")
        return x, mixture.log_density(b, raw, x, self.temperature or 1.0, self.sharpness) if scored else None

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from under("guidance", problems=token_guidance_problems(self.guidance, spec))
        main = spec.networks.get("main")
        mixture = main.mixture if self.guidance is not None and isinstance(main, MixtureTransformer) else None
        if mixture is not None and mixture.per_channel and mixture.components > 1:
            message = "guidance draws one component per token, but here each channel has its own mixture"
            yield Problem(("guidance",), message, "leave guidance out, or set `per_channel: false`")
        if mixture is not None and mixture.correlated:
            message = (
                "guidance draws each channel independently, but channels of a `correlated` mixture depend on each other"
            )
            yield Problem(("guidance",), message, "leave it out")


def _component(
    b: Builder, mixture: Mixture, raw: Var, channels: int, how: tuple[float, float], u: Var
) -> tuple[Var, Var, Var]:
    """Mean and deviation f32[N, C] of the component that u falls on, and which that is."""
    logits, mean, deviation = mixture.parameters(b, raw, channels, *how)
    one = mixture.component(b, logits, u)
    return of_component(b, mean, one, "mean"), of_component(b, deviation, one, "deviation"), one


def _guided(
    b: Builder,
    mixture: Mixture,
    raw: Var,
    channels: int,
    how: tuple[float, float],
    u: Var,
    z: Var,
    guided: tuple[Var, Var, Var, Var],
    scored: bool,
) -> tuple[Var, Var | None]:
    """As `MixtureSampler.drawn` with `guided`."""
    mean, deviation, one = _component(b, mixture, raw, channels, how, u)
    plain = b.add(mean, b.mul(deviation, z), out="plain")
    other, scale, normals, uniforms = guided
    _, mean_u, deviation_u = mixture.parameters(b, other, channels, *how)
    mean_u, deviation_u = of_component(b, mean_u, one, "mean_u"), of_component(b, deviation_u, one, "deviation_u")
    rows = raw.shape[0]

    def column(v: Var) -> Var:
        return b.reshape(v, shape=(rows, 1, channels), out=v.value.name)

    mean, deviation, mean_u, deviation_u = (column(v) for v in (mean, deviation, mean_u, deviation_u))
    weight = b.reshape(scale, shape=(rows, 1, 1), out="weight")

    def density(x: Var) -> Var:
        own = b.mul(log_normal(b, x, mean, deviation), weight)
        rest = b.mul(log_normal(b, x, mean_u, deviation_u), b.op("sub", 1.0, weight))
        return b.add(own, rest, out="log_p")

    wide = b.mul(b.maximum(deviation, deviation_u), 2.0, out="wide")
    grid = b.reshape(b.constant(np.linspace(-10.0, 10.0, POINTS)), shape=(1, POINTS, 1), out="grid")
    highest = b.max(density(b.add(mean, grid, out="points")), axes=(1,), keepdims=True, out="highest")
    bound = b.op("sub", highest, log_normal(b, mean, mean, wide), out="bound")
    x = b.add(mean, b.mul(wide, normals), out="x")
    log_q = b.add(log_normal(b, x, mean, wide), bound, out="log_q")
    accepted = b.logical_and(b.less(b.add(b.log(uniforms), log_q), density(x)), b.less(bound, LARGEST), out="accepted")
    count = b.cumsum(b.cast(accepted, to="f32"), axis=1, out="count")
    first = b.logical_and(accepted, b.less(count, 1.5), out="first")
    chosen = b.sum(b.where(first, x, b.scalar(0.0, x)), axes=(1,), keepdims=False, out="chosen")
    some = b.greater(b.sum(b.cast(accepted, to="f32"), axes=(1,), keepdims=False), 0.5, out="some")
    made = b.where(some, chosen, plain, out="made")
    if not scored:
        return made, None
    found = density(b.reshape(made, shape=(rows, 1, channels)))
    found = b.sum(b.reshape(found, shape=(rows, channels)), axes=(1,), keepdims=False, out="log_density")
    return made, found


def rows_of(mixture: Mixture, channels: int) -> int:
    """Uniform numbers that choose the components of a token."""
    return channels if mixture.per_channel else 1
