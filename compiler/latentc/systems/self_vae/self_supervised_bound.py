"""Training of a variational autoencoder that makes images from simpler images of themselves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.contract import Draw, Network, Update
from latentc.components.kit import Conditions, call
from latentc.components.objective import Objective
from latentc.components.objectives._common import publish, risen
from latentc.components.parts import Spec
from latentc.ir.builder import ModuleBuilder
from latentc.systems.self_vae.densities import bound, drawn, images_of


class SelfSupervisedBound(Objective):
    """The negative evidence lower bound in nats per sample (Gatopoulos and Tomczak 2020, arXiv:2010.02014).

    It is the sum of the reconstruction errors of the sample and of all images made of it, and of the divergences of
    the posteriors of their latents from the priors, each at one draw.
    """

    kind: Literal["self_supervised_bound"]
    kl_warmup: int = Field(
        0,
        ge=0,
        le=100_000_000,
        description="steps in which the weight of the divergences rises from 0 to 1, so that latents are used "
        "(Sønderby et al. 2016, arXiv:1602.02282)",
    )
    NEEDS = "supervise_itself"
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "self_supervised_bound"}

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> tuple[Update, ...]:
        network, conditions = networks["main"], Conditions(spec, networks)
        b = mb.function("loss.terms")
        x = b.input("x", network.methods["posterior_0"].input("state").type)
        cond = conditions.dropped(b, conditions.operands(b, conditions.inputs(b, by_field=True)))
        images = images_of(b, network, x)
        names = [f"noise_{k}" for k in range(len(images))]
        latent = network.methods["log_prob_0"].input("noise").type
        noise = [b.input(name, latent) for name in names]
        latents = {}
        # The simplest image first, as the authors draw.
        for k in reversed(range(len(images))):
            mean, log_variance = call(b, network, f"posterior_{k}", cond, state=images[k], out="mean log_variance")
            latents[k] = drawn(b, mean, log_variance, noise[k])
        likelihood, divergence = bound(b, network, cond, images, latents)
        error = b.neg(likelihood, out="reconstruction")
        weighted = b.mul(divergence, risen(b, self.kl_warmup), out="weighted") if self.kl_warmup else divergence
        b.output(b.add(error, weighted, out="loss"), error, divergence)
        b.finish("The negative evidence lower bound in nats, one value per sample, and its two parts.")
        draws = (*conditions.draws(), *(Draw(name, "normal") for name in names))
        return publish(mb, ("loss", "reconstruction", "kl"), ("x", *conditions.fields), draws, self.trained(spec))
