"""scikit-learn's 8 × 8 digits."""

from typing import Any

import numpy as np

from latentc.datasets.arrays import Arrays


def open_dataset(settings: dict[str, Any]) -> Arrays:
    """The digits as images in [-1, 1], or as tokens: the grey level of each pixel.

    Part "train" is 898 of the 1,797 in a fixed random order (RandomState never changes), "test" is the rest.
    """
    from sklearn.datasets import load_digits

    levels, labels = load_digits(return_X_y=True)
    order = np.random.RandomState(0).permutation(len(labels))
    rows = {"train": order[:898], "test": order[898:], "all": order}[settings["part"]]
    fields = settings["fields"]
    if "tokens" in fields:
        return Arrays({"tokens": levels[rows].astype(np.int64), "y": labels[rows]}, fields)
    x = (levels[rows].reshape(-1, 1, 8, 8) / 8 - 1).astype(np.float32)
    return Arrays({"x": x, "y": labels[rows]}, fields)
