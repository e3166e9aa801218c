"""Training of a network that draws masks of an image as several raters do.

Symbols: B batch, C channels of a mask, N masks that are drawn, R raters, Z latents.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.contract import Draw, Network, Update
from latentc.components.kit import Conditions, call
from latentc.components.objective import Objective
from latentc.components.objectives._common import publish
from latentc.components.parts import Problem, Spec
from latentc.components.sums import summed
from latentc.ir.builder import Builder, ModuleBuilder, Var, f32
from latentc.ir.types import B, product
from latentc.systems.pulaski.distances import Distance, distance


class PlausibleMasks(Objective):
    """The bound of a conditional variational autoencoder, and a distance of drawn masks from those of all raters.

    (PULASki, Chatterjee et al. 2023, arXiv:2312.15686.) The data are masks from -1 to 1, each of one rater; a field
    holds those of all raters of the same image, f32[R, H, W]. Values are in nats per mask; the distance takes masks as
    probabilities, a point with one axis per pixel.
    """

    kind: Literal["plausible_masks"]
    reconstruction: float = Field(
        1.0, ge=0, description="weight of the cross-entropy of all pixels of the rater's mask, given its posterior"
    )
    kl_weight: float = Field(1.0, ge=0, description="weight of the KL divergence of the posterior from the prior")
    distance: Distance | None = Field(
        None,
        description="distance of the drawn masks from the raters': Sinkhorn divergence, energy distance, or the mean "
        "distance from the nearest mask of the other set; null: none",
    )
    distance_weight: float = Field(1.0, gt=0, description="weight of that distance")
    draws: int = Field(4, gt=0, le=256, description="number of masks that are drawn per image for the distance (N)")
    drawn_from: Literal["posterior", "prior"] = Field(
        "posterior", description="distribution of their latents: the posterior of the rater's mask, or the prior"
    )
    raters: str = Field("raters", description="data field with the masks of all raters, which the distance reads")
    NEEDS = "segment"
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "plausible_masks"}

    def problems(self, spec: Spec) -> Iterator[Problem]:
        if self.distance is None:
            if not self.reconstruction:
                message = "nothing compares masks: there is no `distance`, and `reconstruction` is 0"
                yield Problem(("reconstruction",), message, "set `reconstruction: 1`")
            return
        field, shape = spec.data.fields.get(self.raters), spec.data.shape
        if shape is None or len(shape) != 3 or shape[0] != 1:
            yield Problem(("distance",), f"masks [1, H, W] are compared, but the data has {spec.data.words}")
        elif field is None or len(field.shape) != 3 or field.shape[1:] != shape[1:]:
            message = f"`{self.raters}` is no field of several masks [R, {shape[1]}, {shape[2]}]"
            yield Problem(("raters",), message, f"give the data a field `{self.raters}`")

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> tuple[Update, ...]:
        network, conditions = networks["main"], Conditions(spec, networks)
        b = mb.function("loss.terms")
        x = b.input("x", network.methods["posterior"].input("state").type)
        field = spec.data.fields.get(self.raters)
        rated = None if self.distance is None or field is None else b.input(self.raters, f32(B, *field.shape))
        cond = conditions.dropped(b, conditions.operands(b, conditions.inputs(b, by_field=True)))
        latent = network.methods["decode"].input("noise").type
        terms: list[tuple[str, Var]] = []
        draws = list(conditions.draws())
        mean, log_std = call(b, network, "posterior", cond, state=x, out="mean log_std")
        prior_mean, prior_log_std = call(b, network, "prior", cond, out="prior_mean prior_log_std")
        features = call(b, network, "features", cond, out="features")
        weighted = []
        if self.reconstruction:
            noise = b.input("noise", latent)
            draws.append(Draw("noise", "normal"))
            logits = call(b, network, "decode", {}, state=features, noise=_drawn(b, mean, log_std, noise), out="logits")
            target = b.mul(x + 1.0, 0.5, out="target")
            errors = b.op("sub", b.softplus(logits), target * logits, out="errors")
            error = b.sum(errors, axes=(1, 2, 3), keepdims=False, out="reconstruction")
            terms.append(("reconstruction", error))
            weighted.append(_times(b, error, self.reconstruction))
        divergence = _divergence(b, mean, log_std, prior_mean, prior_log_std)
        terms.append(("kl", divergence))
        weighted.append(_times(b, divergence, self.kl_weight))
        if rated is not None and self.distance is not None:
            drawn_noise = b.input("drawn_noise", f32(B, self.draws, latent.shape[1]))
            draws.append(Draw("drawn_noise", "normal"))
            moments = (mean, log_std) if self.drawn_from == "posterior" else (prior_mean, prior_log_std)
            masks = self._masks(b, network, features, moments, drawn_noise)
            batch, count, *sides = rated.shape
            pixels = product(sides)
            of_raters = b.mul(b.reshape(rated, shape=(batch, count, pixels)) + 1.0, 0.5, out="of_raters")
            found = distance(b, self.distance, masks, of_raters)
            terms.append(("distance", found))
            weighted.append(_times(b, found, self.distance_weight))
        b.output(summed(b, "loss", weighted), *(term for _, term in terms))
        b.finish("The loss, one value per mask, and its terms before they are weighted.")
        names = ("loss", *(name for name, _ in terms))
        fields = ("x", *((self.raters,) if rated is not None else ()), *conditions.fields)
        return publish(mb, names, fields, tuple(draws), self.trained(spec))

    def _masks(self, b: Builder, network: Network, features: Var, moments: tuple[Var, Var], noise: Var) -> Var:
        """f32[B, N, D]: probabilities of masks drawn by noise f32[B, N, Z]."""
        found = []
        for i in range(self.draws):
            own = b.reshape(b.slice(noise, axis=1, start=i, stop=i + 1), shape=(noise.shape[0], noise.shape[2]))
            z = _drawn(b, *moments, own)
            logits = call(b, network, "decode", {}, state=features, noise=z, out="logits")
            pixels = product(logits.shape[1:])
            found.append(b.reshape(b.sigmoid(logits), shape=(logits.shape[0], 1, pixels), out="mask"))
        return b.concat(*found, axis=1, out="masks") if len(found) > 1 else found[0]  # type: ignore[no-any-return]


def _times(b: Builder, x: Var, weight: float) -> Var:
    return x if weight == 1 else b.mul(x, weight)


def _drawn(b: Builder, mean: Var, log_std: Var, noise: Var) -> Var:
    return b.add(mean, b.exp(log_std, out="std") * noise, out="z")  # type: ignore[no-any-return]


def _divergence(b: Builder, mean: Var, log_std: Var, prior_mean: Var, prior_log_std: Var) -> Var:
    """f32[B]: the KL divergence in nats of one normal distribution from another, both with diagonal covariance."""
    difference = b.mul(mean - prior_mean, b.exp(-prior_log_std), out="difference")
    ratio = b.op("sub", log_std, prior_log_std, out="ratio")
    terms = b.op("sub", (b.exp(ratio * 2.0) + difference * difference - 1.0) * 0.5, ratio, out="terms")
    return b.sum(terms, axes=(1,), keepdims=False, out="kl")  # type: ignore[no-any-return]
