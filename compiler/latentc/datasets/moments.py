"""Latents that an autoencoder encoded earlier, drawn anew from their mean and deviation each time they are read."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from latentc.datasets.arrays import Array


def drawn(stored: Array, form: str, rng: np.random.Generator | None) -> Array:
    """Latents f32[n, C, h, w] from what was stored: `none` latents, `std` or `log_variance` moments [n, 2 C, h, w].

    Their mean if there is no `rng`. Raises ValueError.
    """
    stored = stored.astype(np.float32)
    if form == "none":
        return stored
    if stored.ndim < 2 or stored.shape[1] % 2:
        raise ValueError(f"moments hold means and deviations, but {list(stored.shape[1:])} cannot be halved")
    mean, spread = np.split(stored, 2, axis=1)
    if rng is None:
        return mean
    deviation = np.exp(np.clip(spread, -30, 20) / 2) if form == "log_variance" else spread
    noise = rng.standard_normal(mean.shape, dtype=np.float32)
    latents: Array = mean + deviation * noise
    return latents


def normalised(latents: Array, mean: Sequence[float], std: Sequence[float], deviation: float) -> Array:
    """Latents [n, C, …] with the given mean and deviation per channel brought to mean 0 and `deviation`."""
    shape = (1, -1, *[1] * (latents.ndim - 2))
    scale = np.float32(deviation) / np.asarray(std, np.float32)
    shifted = latents - np.asarray(mean, np.float32).reshape(shape)
    scaled: Array = shifted * scale.reshape(shape)
    return scaled


def checked(latents: Array, field: dict[str, Any], what: str) -> Array:
    """The latents, if they have the shape that the model takes. Raises ValueError."""
    if list(latents.shape[1:]) != list(field["shape"]):
        raise ValueError(f"{what} have shape {list(latents.shape[1:])}, but the model takes {field['shape']}")
    if not np.isfinite(latents).all():
        raise ValueError(f"{what} hold values that are not finite")
    return np.ascontiguousarray(latents, np.float32)
