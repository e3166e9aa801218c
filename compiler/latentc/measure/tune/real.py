"""The real images of a spec's data, and a Fréchet distance to them in the space of their principal components.

Symbols: N images, F features.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from latentc.components.data.digits import Digits
from latentc.components.data.image_folder import ImageFolder
from latentc.components.data.npz import Npz
from latentc.components.dataset import Data
from latentc.weights import materialise
from latentc.weights.npz import read_npz

Array = np.ndarray
MOST = 2048  # real images that are looked at
FEATURES = 64  # principal components, at most

_IMAGES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}


def real_images(data: Data) -> Array | None:
    """Real samples as the network sees them, f32[N, C, H, W], at most MOST of them; None where there are none here.

    Of digits those that training does not see, where it sees a half. Latents of a first stage have no images here.
    """
    if data.first_stage is not None or data.shape is None:
        return None
    if isinstance(data, Digits):
        return _digits(data)
    if isinstance(data, Npz) and Path(data.path).is_file():
        return _npz(data)
    if isinstance(data, ImageFolder) and Path(data.path).is_dir():
        return _folder(data)
    return None


def _digits(data: Digits) -> Array | None:
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        return None
    levels, _ = load_digits(return_X_y=True)
    # The fixed permutation of the emitted project's data.py, whose first half trains.
    order = np.random.RandomState(0).permutation(len(levels))
    rows = order[898:] if data.part == "train" else order
    return (levels[rows].reshape(-1, 1, 8, 8) / 8 - 1).astype(np.float32)


def _npz(data: Npz) -> Array | None:
    arrays = read_npz(Path(data.path))
    key = data.keys.get("x", "x")
    if key not in arrays:
        return None
    x = materialise(arrays[key])
    x = x[_spread(len(x))]
    if x.dtype == np.uint8:
        x = x.transpose(0, 3, 1, 2) / 127.5 - 1
    return x.astype(np.float32) if x.shape[1:] == data.shape else None


def _folder(data: ImageFolder) -> Array | None:
    """Cropped to the middle square and resized, as the emitted project's data.py does."""
    from PIL import Image

    assert data.shape is not None
    channels, side = data.shape[:2]
    files = [file for file in sorted(Path(data.path).rglob("*")) if file.suffix.lower() in _IMAGES]
    pictures = []
    for file in [files[i] for i in _spread(len(files))]:
        with Image.open(file) as opened:
            picture = opened.convert("L" if channels == 1 else "RGB")
        size = min(picture.size)
        left, top = (picture.width - size) // 2, (picture.height - size) // 2
        box = (left, top, left + size, top + size)
        pixels = np.asarray(picture.resize((side, side), Image.Resampling.BICUBIC, box))
        pictures.append(pixels.reshape(side, side, channels).transpose(2, 0, 1))
    return np.stack(pictures).astype(np.float32) / 127.5 - 1 if pictures else None


def _spread(count: int) -> Array:
    """Row numbers of at most MOST of `count` rows, evenly."""
    return np.linspace(0, count - 1, min(count, MOST)).round().astype(np.int64)


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
