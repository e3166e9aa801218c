"""Maximum likelihood of a normalising flow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import log, log2, pi
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from latentc.components.contract import Draw, Need, Network, Update
from latentc.components.kit import Conditions, call, per_sample_mean, training_method
from latentc.components.kit.flows import log_density, prior_variances
from latentc.components.objective import Objective, not_frozen
from latentc.components.objectives._common import publish
from latentc.components.parts import Problem, Refusal
from latentc.ir.builder import Builder, ModuleBuilder, Var

if TYPE_CHECKING:
    from latentc.spec.schema import Spec


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
    latent_norm: float = Field(
        0.0, ge=0, description="weight of the mean squared input of each flow in turn (STARFlow: 1e-4)"
    )
    denoiser: str | None = Field(
        None, description="network that learns the noise in the data from the gradient of the log-density (STARFlow-V)"
    )
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "log_likelihood"}

    def needs(self, spec: Spec) -> tuple[Need, ...]:
        asks = {"norms": True} if self.latent_norm else {}
        denoiser = (Need(self.denoiser, "estimate_noise", place=("denoiser",)),) if self.denoiser else ()
        return (Need("main", "flow", asks=asks), *denoiser)

    def problems(self, spec: Spec) -> Iterator[Problem]:
        if self.denoiser is not None and (self.noise != "gaussian" or not self.std):
            message = "a denoiser learns to remove Gaussian noise, but none is added"
            yield Problem(("denoiser",), message, "set `noise: gaussian` and `std`, or leave the denoiser out")

    def trained(self, spec: Spec) -> tuple[str, ...]:
        return (*super().trained(spec), *not_frozen(spec, *([self.denoiser] if self.denoiser else [])))

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> tuple[Update, ...]:
        network, conditions = networks["main"], Conditions(spec, networks)
        density = log_density(mb, network) if self.denoiser else ""
        b = mb.function("loss.terms")
        x = b.input("x", network.methods["forward"].input("state").type)
        told = conditions.dropped(b, conditions.operands(b, conditions.inputs(b, by_field=True)))
        noise = b.input("noise", x.type)
        if self.noise == "gaussian":
            x = b.add(x, noise * self.std, out="x")
        else:
            # Level k of n becomes a number in [k, k + 1) / n, from there in [-1, 1).
            level = (x + 1.0) * ((self.levels - 1) / 2)
            x = b.add((level + noise) * (2 / self.levels), -1.0, out="x")
        method, names = training_method(network), "z log_det" + " penalty" * (self.latent_norm > 0)
        if self.latent_norm and method == "forward":
            message = "`latent_norm` weighs the inputs of flows in a row, but `main` is not made of such flows"
            raise Refusal(message, "leave it out, or use the network `transformer_flow`", ("latent_norm",))
        z, log_det, *penalty = call(b, network, method, told, state=x, out=names)
        loss = b.op("sub", per_sample_mean(b, z * z) * 0.5, log_det, out="loss")
        nats = loss
        for variances in prior_variances(b, network, z):
            over = b.add(z * z / variances, b.log(variances), out="over")
            nats = b.op("sub", per_sample_mean(b, over) * 0.5, log_det, out="nats")
        bits = b.add((nats + 0.5 * log(2 * pi)) * (1 / log(2)), log2(self.levels / 2), out="bits")
        for norms in penalty:
            loss = b.add(loss, norms * self.latent_norm, out="loss")
        more: list[Var] = []
        if self.denoiser:
            more = [self._denoising(b, density, network, networks[self.denoiser], told, x)]
            loss = b.add(loss, more[0], out="loss")
        b.output(loss, bits, *more)
        b.finish(
            "The negative log-likelihood, one value per sample: nats without the constant, and bits per dimension."
        )
        draws = (*conditions.draws(), Draw("noise", "normal" if self.noise == "gaussian" else "uniform"))
        metrics = ("loss", "bits", *(("denoising",) if more else ()))
        return publish(mb, metrics, ("x", *conditions.fields), draws, self.trained(spec))

    def _denoising(
        self, b: Builder, density: str, network: Network, denoiser: Network, told: Mapping[str, Var], x: Var
    ) -> Var:
        """f32[B]: the mean square of what the denoiser's noise lacks to that of the flow's density, by `std`."""
        ports = network.methods["forward"].inputs
        given = [x if port.role == "state" else told[port.name] for port in ports]
        at = next(i for i, port in enumerate(ports) if port.role == "state")
        _, score = b.gradient(density, "", given, wrt=(at,), out="log_p score")
        wanted = b.stop_gradient(score * -self.std, out="wanted")
        noise = call(b, denoiser, "forward", told, state=x, out="noise")
        error = b.op("sub", noise * (1 / self.std), wanted, out="error")
        return per_sample_mean(b, error * error, out="denoising")
