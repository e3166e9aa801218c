"""scikit-learn's 8 × 8 digits."""

from functools import cache
from typing import Any

import numpy as np

from latentc.datasets.arrays import Arrays


def open_dataset(settings: dict[str, Any]) -> Arrays:
    """The digits as images in [-1, 1], or as tokens: the grey level of each pixel.

    Part "train" is 898 of the 1,797 in a fixed random order (RandomState never changes), "test" is the rest.
    """
    levels, labels = _digits()
    order = np.random.RandomState(0).permutation(len(labels))
    rows = {"train": order[:898], "test": order[898:], "all": order}[settings["part"]]
    fields = settings["fields"]
    images = (levels.reshape(-1, 8, 8) / 8 - 1).astype(np.float32)
    seen = {"tokens": levels[rows].astype(np.int64)} if "tokens" in fields else {"x": images[rows, None]}
    others = [name for name in fields if name not in ("x", "y", "tokens")]
    latents = {name: components(images, fields[name]["shape"])[rows] for name in others}
    own = {"y": labels[rows]} if "y" in fields else {}
    return Arrays({**seen, **own, **latents}, fields)


@cache
def _digits() -> tuple[np.ndarray, np.ndarray]:
    """Grey levels f64[1797, 64] from 0 to 16 and labels i64[1797], which scikit-learn reads from a text file."""
    from sklearn.datasets import load_digits

    levels, labels = load_digits(return_X_y=True)
    return levels, labels


def components(images: np.ndarray, shape: list[int]) -> np.ndarray:
    """The first C principal components of each of h by w squares of images [N, 8, 8]: f32[N, C, h, w], or f32[N, C]."""
    count, rows, columns = shape if len(shape) == 3 else (shape[0], 1, 1)
    squares = images.reshape(-1, rows, 8 // rows, columns, 8 // columns).swapaxes(2, 3)
    flat = squares.reshape(-1, (8 // rows) * (8 // columns)).astype(np.float64)
    flat -= flat.mean(axis=0)
    axes = np.linalg.svd(flat, full_matrices=False)[2][:count]
    axes *= np.sign(axes[np.arange(count), np.abs(axes).argmax(axis=1)])[:, None]  # fixes their signs
    found = (flat @ axes.T).reshape(-1, rows, columns, count).transpose(0, 3, 1, 2)
    return (found / found.std()).astype(np.float32).reshape(-1, *shape)
