"""Maximum likelihood of a normalising flow."""

from __future__ import annotations

from collections.abc import Mapping
from math import log, log2, pi
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.contract import Draw, Network, Update
from latentc.components.kit import Conditions, Operands, call, per_sample_mean, training_method
from latentc.components.kit.flows import prior_variances
from latentc.components.objective import Objective
from latentc.components.objectives._common import publish
from latentc.components.parts import Spec
from latentc.ir.builder import Builder, ModuleBuilder, Var


class LogLikelihood(Objective):
    """Negative log-likelihood of noisy data, in nats per dimension without the constant log(2 pi) / 2.

    A flow whose prior variances follow the latents is still trained with a standard normal prior. The metric `bits` is
    in bits per dimension of data with `levels` values between -1 and 1.
    """

    kind: Literal["log_likelihood"]
    noise: Literal["gaussian", "uniform"] = Field(
        "gaussian",
        description="noise added to the data: Gaussian with standard deviation `std`, or uniform over one level "
        "(dequantisation)",
    )
    std: float = Field(0.05, ge=0, description="standard deviation of Gaussian noise, in units of the data")
    levels: int = Field(256, gt=1, le=65_536, description="number of levels of the data from -1 to 1")
    NEEDS = "flow"
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "log_likelihood"}

    def passed(self, b: Builder, network: Network, cond: Operands, x: Var) -> tuple[Var, ...]:
        """The latent of x, the log-determinant f32[B], and terms f32[B] that are added to the loss."""
        return call(b, network, training_method(network), cond, state=x, out="z log_det")

    def further(
        self, b: Builder, mb: ModuleBuilder, networks: Mapping[str, Network], cond: Operands, x: Var
    ) -> dict[str, Var]:
        """Terms f32[B] that are added to the loss, by the names of their metrics; x is the noisy data."""
        return {}

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> tuple[Update, ...]:
        network, conditions = networks["main"], Conditions(spec, networks)
        b = mb.function("loss.terms")
        x = b.input("x", network.methods["forward"].input("state").type)
        cond = conditions.dropped(b, conditions.operands(b, conditions.inputs(b, by_field=True)))
        noise = b.input("noise", x.type)
        if self.noise == "gaussian":
            x = b.add(x, noise * self.std, out="x")
        else:
            # Level k of n becomes a number in [k, k + 1) / n, from there in [-1, 1).
            level = (x + 1.0) * ((self.levels - 1) / 2)
            x = b.add((level + noise) * (2 / self.levels), -1.0, out="x")
        z, log_det, *added = self.passed(b, network, cond, x)
        loss = b.op("sub", per_sample_mean(b, z * z) * 0.5, log_det, out="loss")
        nats = loss
        for variances in prior_variances(b, network, z):
            over = b.add(z * z / variances, b.log(variances), out="over")
            nats = b.op("sub", per_sample_mean(b, over) * 0.5, log_det, out="nats")
        bits = b.add((nats + 0.5 * log(2 * pi)) * (1 / log(2)), log2(self.levels / 2), out="bits")
        more = self.further(b, mb, networks, cond, x)
        for term in (*added, *more.values()):
            loss = b.add(loss, term, out="loss")
        b.output(loss, bits, *more.values())
        b.finish(
            "The negative log-likelihood, one value per sample: nats without the constant, and bits per dimension."
        )
        draws = (*conditions.draws(), Draw("noise", "normal" if self.noise == "gaussian" else "uniform"))
        return publish(mb, ("loss", "bits", *more), ("x", *conditions.fields), draws, self.trained(spec))
