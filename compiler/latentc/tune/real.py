"""The real samples of a spec's data, and a Fréchet distance to them in the space of their principal components.

Symbols: N images, F features.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from latentc.components.dataset import Data
from latentc.datasets import open_dataset

Array = np.ndarray
MOST = 2048  # most real samples that are read
FEATURES = 64  # most principal components


def real_images(data: Data) -> Array | None:
    """Real samples as the network sees them, f32[N, C, H, W], at most MOST; None if they cannot be read here.

    Data that training does not see, if they are known. Latents of a first stage have no images here.
    """
    if data.first_stage is not None or "x" not in data.fields:
        return None
    try:
        found = open_dataset(data.held_out().settings())
    except (ValueError, OSError, ImportError):
        return None
    rows = np.linspace(0, found.size - 1, min(found.size, MOST)).round().astype(np.int64)  # evenly
    return found.rows(rows)["x"]


def frechet_to(real: Array) -> Callable[[Array], float]:
    """The Fréchet distance of samples [N, C, H, W] to `real` images, both by their principal components.

    The components are those of the real images, at most FEATURES, not scaled. The distance falls as N grows: only those
    of equally many samples compare.
    """
    flat = real.reshape(len(real), -1).astype(np.float64)
    centre = flat.mean(axis=0)
    _, _, axes = np.linalg.svd(flat - centre, full_matrices=False)
    axes = axes[: min(FEATURES, len(real) - 1)]
    wanted = (flat - centre) @ axes.T

    def distance(samples: Array) -> float:
        return frechet_distance((samples.reshape(len(samples), -1) - centre) @ axes.T, wanted)

    return distance


def frechet_distance(a: Array, b: Array) -> float:
    """|μa − μb|² + tr(Ca + Cb − 2 (Ca Cb)^½) of features f64[N, F] and f64[M, F] (Heusel et al. 2017, equation 6).

    The trace of the root is Σ √λ of Ca^½ Cb Ca^½, which is symmetric whatever the rank.
    """
    cov_a, cov_b = np.atleast_2d(np.cov(a, rowvar=False)), np.atleast_2d(np.cov(b, rowvar=False))
    values, vectors = np.linalg.eigh(cov_a)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    mixed = np.sqrt(np.linalg.eigvalsh(root @ cov_b @ root).clip(0)).sum()
    gap = a.mean(axis=0) - b.mean(axis=0)
    return float(gap @ gap + np.trace(cov_a) + np.trace(cov_b) - 2 * mixed)
