"""Densities of latents, and what an image and its latents add to the bound. Symbols: B batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import log, pi
from typing import NamedTuple

from latentc.components.contract import Network
from latentc.components.kit import Operands, call
from latentc.components.sums import summed
from latentc.ir.builder import Builder, Var
from latentc.ir.types import product


def standard_log_prob(b: Builder, z: Var) -> Var:
    """f32[B]: log-density in nats of z [B, ...] under a standard normal distribution."""
    return _log_prob(b, z * z, z)


def normal_log_prob(b: Builder, z: Var, mean: Var, log_variance: Var) -> Var:
    """f32[B]: log-density in nats of z [B, ...] under a normal distribution, whose moments have the shape of z."""
    residual = b.op("sub", z, mean, out="residual")
    return _log_prob(b, residual * residual * b.exp(-log_variance) + log_variance, z)


def _log_prob(b: Builder, terms: Var, z: Var) -> Var:
    constant = float(product(z.shape[1:])) * log(2 * pi)  # type: ignore[arg-type]
    total = b.sum(terms, axes=tuple(range(1, z.type.rank)), keepdims=False, out="total")
    return b.mul(total + constant, -0.5, out="log_p")


class Latents(NamedTuple):
    """Latents of one image, drawn from their posterior."""

    z: Var
    log_q: Var
    """f32[B]: their log-density under it."""


def drawn(b: Builder, mean: Var, log_variance: Var, noise: Var) -> Latents:
    """Latents with these moments by normal noise, all of one shape."""
    z = b.add(mean, b.exp(log_variance * 0.5, out="std") * noise, out="z")
    return Latents(z, normal_log_prob(b, z, mean, log_variance))


def images_of(b: Builder, network: Network, x: Var) -> list[Var]:
    """The sample and the images that are made of it."""
    if "transform" not in network.methods:
        return [x]
    names = [port.name for port in network.methods["transform"].outputs]
    made = call(b, network, "transform", {}, state=x, out=" ".join(names))
    return [
        x,
        *(b.stop_gradient(image, out=image.value.name) for image in (made if isinstance(made, tuple) else (made,))),
    ]


def bound(
    b: Builder, network: Network, cond: Operands, images: Sequence[Var], latents: Mapping[int, Latents]
) -> tuple[Var, Var]:
    """f32[B] each: log-probability of all images given their latents, and log q - log p of the latents, in nats."""
    last = len(images) - 1
    of_images, of_latents = [], []
    for k, image in enumerate(images):
        z, log_q = latents[k]
        state = [image, *images[k + 1 : k + 2]]
        of_images.append(call(b, network, f"log_prob_{k}", cond, state=state, noise=z, out="log_p"))
        if k < last:
            given = {"state": images[k + 1], "noise": latents[k + 1].z}
            moments = call(b, network, f"prior_{k}", cond, **given, out="prior_mean prior_log_variance")
            log_p = normal_log_prob(b, z, *moments)
        elif "prior_log_prob" in network.methods:
            log_p = call(b, network, "prior_log_prob", {}, state=z, out="log_p")
        else:
            log_p = standard_log_prob(b, z)
        of_latents.append(b.op("sub", log_q, log_p, out="divergence"))
    return summed(b, "log_likelihood", of_images), summed(b, "divergence", of_latents)
