"""Parts of causal sensitivity analysis: contexts of several latents, and how much a shift of these changes densities.

A treatment is an array condition [1]: 0 or 1 where there is a propensity score, else any number.

Symbols: B batch, n latents per sample, D numbers of an outcome.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated

from pydantic import Field

from latentc.components import Closed
from latentc.components.contract import Network
from latentc.components.kit.calls import Operands, call
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import Builder, Var
from latentc.ir.types import B

Bound = Annotated[float, Field(ge=-1e9, le=1e9)]


class Box(Closed):
    """Outcomes between two bounds in every number, in the units of the data."""

    lower: tuple[Bound, ...] = Field(
        min_length=1, max_length=1_024, description="lower bound of the outcome, per dimension"
    )
    upper: tuple[Bound, ...] = Field(
        min_length=1, max_length=1_024, description="upper bound of the outcome, per dimension"
    )

    def problems(self, spec: Spec) -> Iterator[Problem]:
        size = spec.data.fields["x"].shape[0]
        for name in ("lower", "upper"):
            if len(getattr(self, name)) != size:
                yield Problem((name,), f"outcomes have {size} numbers, but `{name}` has {len(getattr(self, name))}")
        if any(low >= high for low, high in zip(self.lower, self.upper, strict=False)):
            yield Problem(("upper",), "the region is empty: some upper bound is not above its lower bound")

    def has(self, b: Builder, outcomes: Var) -> Var:
        """f32[B, n]: 1 for those of outcomes f32[B, n, D] that lie within."""
        bounds = [b.constant([float(x) for x in side], "f32", out="bound") for side in (self.lower, self.upper)]
        outside = b.logical_or(b.less(outcomes, bounds[0]), b.less(bounds[1], outcomes))
        some = b.max(b.cast(outside, to="f32"), axes=(2,), keepdims=False, out="outside")
        return b.op("sub", 1.0, some, out="inside")


def repeated(b: Builder, cond: Operands, count: int) -> dict[str, Var]:
    """Conditions [B, ...] of every latent: [B n, ...]."""
    found = {}
    for name, x in cond.items():
        wide = b.reshape(x, shape=(B, 1, *x.shape[1:]))
        wide = b.broadcast_to(wide, wide, shape=(B, count, *x.shape[1:]))
        found[name] = b.reshape(wide, shape=(B * count, *x.shape[1:]), out=name)
    return found


def propensity(b: Builder, networks: Mapping[str, Network], cond: Operands, treatment: str) -> Var | None:
    """f32[B]: probability of the treatment that a sample has; None: treatments are not binary."""
    if "propensity" not in networks:
        return None
    given = cond[treatment]
    score = b.sigmoid(call(b, networks["propensity"], "embed", cond, out="score"), out="score")
    p = b.add(given * score, (1.0 - given) * (1.0 - score))
    return b.reshape(p, shape=(given.shape[0],), out="propensity")


def shifted(
    b: Builder, networks: Mapping[str, Network], shift: str, cond: Operands, latents: Var, count: int
) -> tuple[Var, Var]:
    """Outcomes f32[B, n, D] of shifted latents, and the log-ratio f32[B, n] of their density to the standard normal.

    `cond` and latents f32[B n, D] are of every latent.
    """
    moved, log_ratio = moved_latents(b, networks, shift, cond, latents, count)
    outcomes = call(b, networks["main"], "inverse", cond, noise=moved, out="outcomes")
    return b.reshape(outcomes, shape=(B, count, latents.shape[1]), out="outcomes"), log_ratio


def moved_latents(
    b: Builder, networks: Mapping[str, Network], shift: str, cond: Operands, latents: Var, count: int
) -> tuple[Var, Var]:
    """Shifted latents f32[B n, D], and the log-ratio f32[B, n] of their density to the standard normal."""
    moved, log_det = call(b, networks[shift], "shift", cond, noise=latents, out="moved log_det")
    squares = [b.sum(u * u, axes=(1,), keepdims=False) for u in (moved, latents)]
    log_ratio = b.op("sub", b.op("sub", *squares) * 0.5, log_det, out="log_ratio")
    return moved, b.reshape(log_ratio, shape=(B, count), out="log_ratio")


def log_density_at(b: Builder, networks: Mapping[str, Network], shift: str, cond: Operands, latents: Var) -> Var:
    """f32[B n]: log-density of shifted latents at latents f32[B n, D], over that of the standard normal, in nats."""
    z, log_det = call(b, networks[shift], "forward", cond, state=latents, out="z log_det")
    squares = [b.sum(u * u, axes=(1,), keepdims=False) for u in (latents, z)]
    return b.add(b.op("sub", *squares) * 0.5, log_det * float(int(latents.shape[1])), out="log_ratio_at")


def expected(b: Builder, outcomes: Var, observed: Var | None, p: Var | None) -> Var:
    """f32[B, D]: mean outcome under the treatment, of shifted latents and, where it was given, of those observed."""
    mean = b.mean(outcomes, axes=(1,), keepdims=False, out="mean")
    if p is None or observed is None:
        return mean
    share = b.reshape(p, shape=(p.shape[0], 1))
    own = b.mean(observed, axes=(1,), keepdims=False, out="own")
    return b.add(share * own, (1.0 - share) * mean, out="mean")
