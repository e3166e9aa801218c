"""Bounds of a mean outcome or of a probability under a treatment, and of what a binary treatment changes: NeuralCSA.

Symbols: B batch, n latents per sample, D numbers of an outcome.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.contract import Need, Network, OutputField, Program
from latentc.components.kit import Conditions, Operands, call
from latentc.components.parts import Problem, Spec, under
from latentc.components.sampler import Sampler
from latentc.ir.builder import Builder, ModuleBuilder, Var, f32
from latentc.ir.types import B
from latentc.systems.neural_csa.causal import Box, expected, propensity, repeated, shifted
from latentc_runtime.sources import RandomSource, Source


class CausalBounds(Sampler):
    """Smallest and largest mean outcome under the requested treatment (Frauen et al. 2024, arXiv:2311.16026).

    Computed from latents that the networks `lower` and `upper` shift, by an amount that `propensity` determines if
    there is one. With it, the program `effect` bounds the difference between treatments 1 and 0, given only covariates.
    """

    kind: Literal["causal_bounds"]
    treatment: str = Field("treatment", description="condition that represents the treatment")
    latents: int = Field(2048, gt=0, le=1_048_576, description="latents per sample (n)")
    within: Box | None = Field(
        None, description="also bounds the probability that an outcome lies within the region, if the objective does"
    )
    guidance: None = Field(None, description="always null: there is no guidance")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "causal_bounds", "latents": 4}

    def needs(self, spec: Spec) -> tuple[Need, ...]:
        flows = Need("main", "flow"), Need("lower", "shift"), Need("upper", "shift")
        return (*flows, *((Need("propensity", "embed_conditions"),) if "propensity" in spec.networks else ()))

    def problems(self, spec: Spec) -> Iterator[Problem]:
        if self.within is not None:
            yield from under("within", problems=self.within.problems(spec))

    def programs(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> tuple[Program, ...]:
        networks = {
            need.network: networks[need.network] for need in self.needs(spec)
        }  # not conditions that only training uses
        built = self.build(mb, networks, spec)
        return (built, self._effect(mb, networks, spec)) if "propensity" in networks else (built,)

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> Program:
        """Adds entry `sample.1`: the conditions, latents f32[B, n, D] -> bounds f32[B, 2, D]."""
        conditions = Conditions(spec, networks)
        b = mb.function("sample.1")
        cond = conditions.operands(b, conditions.inputs(b))
        lower, upper = self._both(b, networks, cond, self._latents(b, networks))
        doc = "The least and the largest mean outcome under the treatment."
        return self._finished(mb, b, "sample", lower, upper, conditions, doc)

    def _effect(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> Program:
        """Adds entry `effect.1`: the covariates, latents f32[B, n, D] -> bounds f32[B, 2, D]."""
        every = [name for name, _ in Conditions(spec, networks).items()]
        conditions = Conditions(spec, networks, tuple(name for name in every if name != self.treatment))
        b = mb.function("effect.1")
        cond = conditions.operands(b, conditions.inputs(b))
        latents = self._latents(b, networks)
        bounds = []
        for treatment in (1.0, 0.0):
            given = b.full(latents, shape=(1,), value=treatment, dtype="f32", out=self.treatment)
            bounds.append(self._both(b, networks, {**cond, self.treatment: given}, latents))
        (low, high), (other_low, other_high) = bounds
        lower, upper = b.op("sub", low, other_high, out="lower"), b.op("sub", high, other_low, out="upper")
        doc = "The least and the largest difference between the mean outcomes under treatments 1 and 0."
        return self._finished(mb, b, "effect", lower, upper, conditions, doc)

    def _latents(self, b: Builder, networks: Mapping[str, Network]) -> Var:
        size = networks["main"].methods["inverse"].input("noise").type.shape[1]
        return b.input("latents", f32(B, self.latents, size))

    def _both(self, b: Builder, networks: Mapping[str, Network], cond: Operands, latents: Var) -> tuple[Var, Var]:
        """The least and the largest mean outcome, f32[B, D] each."""
        size = latents.shape[2]
        flat = b.reshape(latents, shape=(B * self.latents, size), out="flat")
        every = repeated(b, cond, self.latents)
        p = propensity(b, networks, cond, self.treatment)
        observed = None
        if p is not None:
            own = call(b, networks["main"], "inverse", every, noise=flat, out="observed")
            observed = self._asked(b, b.reshape(own, shape=(B, self.latents, size), out="observed"))
        lower, upper = (
            expected(b, self._asked(b, shifted(b, networks, side, every, flat, self.latents)[0]), observed, p)
            for side in ("lower", "upper")
        )
        return lower, upper

    def _asked(self, b: Builder, outcomes: Var) -> Var:
        """f32[B, n, D], or of probabilities f32[B, n, 1]: what the mean of outcomes f32[B, n, D] is taken of."""
        if self.within is None:
            return outcomes
        return b.reshape(self.within.has(b, outcomes), shape=(B, self.latents, 1), out="asked")

    def _finished(
        self, mb: ModuleBuilder, b: Builder, name: str, lower: Var, upper: Var, conditions: Conditions, doc: str
    ) -> Program:
        columns = [b.reshape(x, shape=(B, 1, x.shape[1])) for x in (lower, upper)]
        b.output(b.concat(*columns, axis=1, out="bounds"))
        entry = f"{name}.1"
        mb.entries[entry] = b.finish(doc=doc)
        sources: dict[str, Source] = {**conditions.sources(), "latents": RandomSource("normal", "latents")}
        return Program(entry, self.kind, 1, 2, sources, (), name, (OutputField("bounds"),))
