"""srVAE and the VAE it is compared with (Gatopoulos and Tomczak 2020): bounds with gradients, samples.

The authors' images have values from 0 to 1. Their networks are recorded at smaller widths than their code fixes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from cases import Array, Loss, Sampler
from parity_data import Numbers

PARTS = {"last_posterior": 4, "last_likelihood": 8}
INNER = {"posterior": 4, "image_prior": 4, "likelihood": 4}
DEEP = {"latent_prior": 4, "joint_prior": 4, "joint_likelihood": 4}


def sizes(parts: Mapping[str, int], layers: str = "") -> tuple[str, ...]:
    return tuple(f"backbone.{name}={{growth: {growth}, steps: 2{layers}}}" for name, growth in parts.items())


VAE = ("backbone.latent_channels=2", "backbone.mixture=2", "backbone.prior={growth: 3, steps: 2}", *sizes(PARTS))
SRVAE = (*VAE, *sizes(INNER), *sizes(DEEP, ", layers: 2"))


def batch(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    """The authors draw the latents of the simplest image first."""
    noise = list(reversed(numbers.noise[: len(numbers.noise) // 2]))
    return {"x": 2 * numbers.inputs["x"] - 1, **{f"noise_{k}": z for k, z in enumerate(noise)}}


def drawn(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    noise = list(reversed(numbers.noise[len(numbers.noise) // 2 :]))
    return {f"noise_{k}": z for k, z in enumerate(noise)}


def centred(numbers: Numbers) -> Array:
    return np.asarray(2 * numbers.outputs["out.x_hat"] - 1)


def bound(numbers: Numbers) -> Array:
    return numbers.outputs["out.nelbo"]


CASES = [
    Loss(
        "self_vae",
        "self_vae",
        SRVAE,
        batch,
        wanted=bound,
        tolerance=2e-5,
        why="the authors' float32 and float64 runs differ by 1.44e-5 in the gradient of a convolution",
    ),
    Loss(
        "self_vae.vae",
        "self_vae",
        VAE,
        batch,
        wanted=bound,
        variant="vae",
        tolerance=2e-5,
        why="the authors' float32 and float64 runs differ by 1.53e-5 in the gradient of a length",
    ),
    Sampler("self_vae", "self_vae", SRVAE, drawn, wanted=centred, tolerance=1e-5),
    Sampler("self_vae.vae", "self_vae", VAE, drawn, wanted=centred, variant="vae", tolerance=1e-5),
]
