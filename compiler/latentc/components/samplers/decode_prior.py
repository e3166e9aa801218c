"""The programs of a variational autoencoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import log
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.contract import Network, OutputField, Program
from latentc.components.kit import Conditions, call
from latentc.components.kit.normals import gaussian_log_prob
from latentc.components.parts import Spec
from latentc.components.samplers.one_pass import OnePass
from latentc.ir.builder import Builder, ModuleBuilder, Var
from latentc.ir.types import f32
from latentc_runtime.sources import Condition, ConditionSource, RandomSource, Source


class DecodePrior(OnePass):
    """Decodes latents drawn from the prior, a standard normal that may be truncated.

    Further programs take data `x`: `reconstruct` decodes the posterior's mean, `encode` returns mean and log-variance,
    and `log_likelihood` estimates log p(x | conditions) in nats from below, by importance weights of latents drawn from
    the posterior (Burda et al. 2016, arXiv:1509.00519).
    """

    kind: Literal["decode_prior"]  # type: ignore[assignment]
    likelihood_samples: int = Field(
        16, gt=0, le=65_536, description="latents per sample by which `log_likelihood` estimates"
    )
    NEEDS = "infer"
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "decode_prior", "likelihood_samples": 2}

    def programs(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> tuple[Program, ...]:
        """Adds entries `sample.1`, `reconstruct`, `encode` and `log_likelihood`."""
        return (
            *super().programs(mb, networks, spec),
            self._encode(mb, networks, spec, "reconstruct"),
            self._encode(mb, networks, spec, "encode"),
            self._log_likelihood(mb, networks, spec),
        )

    def _of_data(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec, name: str) -> _OfData:
        conditions, state = Conditions(spec, networks), networks["main"].methods["posterior"].input("state")
        b = mb.function(name)
        x = b.input("x", state.type)
        return _OfData(b, x, conditions.operands(b, conditions.inputs(b)), conditions)

    def _encode(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec, name: str) -> Program:
        """Adds entry `encode` or `reconstruct`: data x and the conditions -> mean, log-variance, or reconstruction."""
        of, network = self._of_data(mb, networks, spec, name), networks["main"]
        mean, log_variance = call(of.b, network, "posterior", of.operands, state=of.x, out="mean log_variance")
        outputs: tuple[OutputField, ...] = (OutputField("mean"), OutputField("log_variance"))
        if name == "encode":
            of.b.output(mean, log_variance)
            doc = "The latents of data x."
        else:
            of.b.output(call(of.b, network, "forward", of.operands, noise=mean, out=name))
            outputs, doc = (OutputField("reconstruction", "x"),), "Data x, encoded and decoded."
        mb.entries[name] = of.b.finish(doc)
        return of.program(spec, name, self.kind, 1 if name == "encode" else 2, outputs, {})

    def _log_likelihood(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> Program:
        """Adds entry `log_likelihood`: data x and the conditions, noise f32[K, B, Z] -> log p(x) in nats f32[B]."""
        name, network = "log_likelihood", networks["main"]
        of, latent = self._of_data(mb, networks, spec, name), network.methods["forward"].input("noise").type
        noise = of.b.input("noise", f32(self.likelihood_samples, *latent.shape))
        mean, log_variance = call(of.b, network, "posterior", of.operands, state=of.x, out="mean log_variance")
        std = of.b.exp(log_variance * 0.5, out="std")

        def weight(b: Builder, i: Var, kept: tuple[Var, ...], carried: tuple[Var, ...], rows: tuple[Var, ...]) -> Any:
            x, mean, log_variance, std, *given = kept
            z = b.add(mean, std * rows[0], out="z")
            cond = dict(zip(of.operands, given, strict=True))
            made, log_std = call(b, network, "likelihood", cond, noise=z, out="made log_std")
            # log p(z) - log q(z | x), whose constants cancel.
            ratio = b.op("mul", rows[0] * rows[0] + log_variance - z * z, 0.5, out="ratio")
            ratio = b.sum(ratio, axes=(1,), keepdims=False, out="log_ratio")
            return (), (b.add(gaussian_log_prob(b, x, made, log_std), ratio, out="log_weight"),)

        kept = [of.x, mean, log_variance, std, *of.operands.values()]
        (weights,) = of.b.loop(f"{name}.weights", self.likelihood_samples, weight, invariants=kept, tables=[noise])
        total = of.b.logsumexp(weights, axis=0, out="total")
        of.b.output(of.b.add(total, -log(self.likelihood_samples), out=name))
        mb.entries[name] = of.b.finish("A lower bound of the log-likelihood of x in nats, from importance weights.")
        drawn = RandomSource("normal", "posterior", self.likelihood_samples)
        evaluations = 1 + self.likelihood_samples
        return of.program(spec, name, self.kind, evaluations, (OutputField(name),), {"noise": drawn})


@dataclass(frozen=True)
class _OfData:
    """A program of data x, its operands and the conditions they come from."""

    b: Builder
    x: Var
    operands: Mapping[str, Var]
    conditions: Conditions

    def program(
        self,
        spec: Spec,
        name: str,
        kind: str,
        evaluations: int,
        outputs: tuple[OutputField, ...],
        more: Mapping[str, Source],
    ) -> Program:
        field = spec.data.fields["x"]
        given = Condition("x", "array", field.shape, "f32", field.axes)
        sources = {"x": ConditionSource("x"), **self.conditions.sources(), **more}
        return Program(name, kind, 1, evaluations, sources, name=name, outputs=outputs, conditions=(given,))
