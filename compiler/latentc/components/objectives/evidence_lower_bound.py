"""Training of variational autoencoders that generate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.contract import Draw, Network, Update
from latentc.components.kit import Conditions, call
from latentc.components.kit.normals import gaussian_log_prob
from latentc.components.objective import Objective
from latentc.components.objectives._common import publish
from latentc.components.parts import Spec
from latentc.ir.builder import ModuleBuilder


class EvidenceLowerBound(Objective):
    """The negative evidence lower bound (Kingma and Welling 2014, arXiv:1312.6114), in nats per sample.

    It is the sum of the reconstruction error, -log p(x | z, y) at one latent z drawn from q(z | x, y), and of the KL
    divergence of q from the standard normal prior.
    """

    kind: Literal["evidence_lower_bound"]
    kl_weight: float = Field(
        1.0, ge=0, description="weight of the KL divergence: 1 is the bound, more is a beta-VAE (Higgins et al. 2017)"
    )
    NEEDS = "infer"
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "evidence_lower_bound"}

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> tuple[Update, ...]:
        network, conditions = networks["main"], Conditions(spec, networks)
        b = mb.function("loss.terms")
        x = b.input("x", network.methods["posterior"].input("state").type)
        cond = conditions.dropped(b, conditions.operands(b, conditions.inputs(b, by_field=True)))
        noise = b.input("noise", network.methods["forward"].input("noise").type)
        mean, log_variance = call(b, network, "posterior", cond, state=x, out="mean log_variance")
        z = b.add(mean, b.exp(log_variance * 0.5, out="std") * noise, out="z")
        made, log_std = call(b, network, "likelihood", cond, noise=z, out="made log_std")
        error = b.neg(gaussian_log_prob(b, x, made, log_std), out="reconstruction")
        terms = b.op("mul", mean * mean + b.exp(log_variance) - log_variance - 1.0, 0.5, out="terms")
        divergence = b.sum(terms, axes=(1,), keepdims=False, out="kl")
        weighted = divergence if self.kl_weight == 1 else b.mul(divergence, self.kl_weight)
        b.output(b.add(error, weighted, out="loss"), error, divergence)
        b.finish("The negative evidence lower bound in nats, one value per sample, and its two parts.")
        draws = (*conditions.draws(), Draw("noise", "normal"))
        return publish(mb, ("loss", "reconstruction", "kl"), ("x", *conditions.fields), draws, self.trained(spec))
