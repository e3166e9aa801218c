"""scikit-learn's digits of several sizes, as padded sequences of patches."""

from typing import Any

import numpy as np

from latentc.datasets.arrays import Arrays
from latentc.datasets.digits import open_dataset as open_digits


def open_dataset(settings: dict[str, Any]) -> Arrays:
    """Every digit in every one of the `sizes`: patches `x`, rows and columns `size`, label `y`."""
    fields: dict[str, dict[str, Any]] = {"x": {"shape": [1, 8, 8], "dtype": "f32", "medium": "array"}}
    fields["y"] = {"shape": [], "dtype": "i64", "classes": 10, "medium": "array"}
    every = open_digits({"part": settings["part"], "fields": fields}).arrays
    sizes = settings["sizes"]
    count, length = len(every["x"]), settings["length"]
    x = np.zeros((len(sizes), count, 4, length), np.float32)
    for of_size, (rows, columns) in zip(x, sizes, strict=True):
        of_size[:, :, : rows * columns] = patches(resized(every["x"][:, 0], 2 * rows, 2 * columns))
    size = np.repeat(np.asarray(sizes, np.float32), count, axis=0)
    found = {"x": x.reshape(-1, 4, length), "size": size, "y": np.tile(every["y"], len(sizes))}
    return Arrays({name: found[name] for name in settings["fields"]}, settings["fields"])


def resized(images: np.ndarray, height: int, width: int) -> np.ndarray:
    """Images [N, H, W] interpolated linearly to [N, height, width]; pixels are squares."""
    down, across = (_weights(old, new) for old, new in zip(images.shape[1:], (height, width), strict=True))
    return np.asarray(down @ images @ across.T, np.float32)


def _weights(old: int, new: int) -> np.ndarray:
    """f64[new, old]: the share of each old pixel in each new one."""
    centre = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
    return np.asarray(np.maximum(1 - np.abs(centre[:, None] - np.arange(old)), 0))


def patches(images: np.ndarray) -> np.ndarray:
    """Patches of 2 by 2 pixels of images [N, H, W], row by row: [N, 4, H W / 4]."""
    count, height, width = images.shape
    tiles = images.reshape(count, height // 2, 2, width // 2, 2).transpose(0, 2, 4, 1, 3)
    return tiles.reshape(count, 4, -1)
