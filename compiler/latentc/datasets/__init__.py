"""Readers of training data, one module per kind of data; plain numpy, and copied into training projects.

A module has `open_dataset(settings)`, whose result has

    size        number of samples
    in_memory   whether reading rows is cheap
    rows(index, rng)   samples of the rows i64[n]: {field: array [n, ...]}; augmented if `rng` is given
    labels      the class of each sample i64[N], or None; absent if it takes reading every sample

Where the data holds names of its classes, the module has `class_names(settings)`: a list of them in the order of the
labels, empty if there are none.

`settings` is the `data` section with all `fields`. What is missing or does not fit raises ValueError.
"""

from __future__ import annotations

import importlib
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray


class Dataset(Protocol):
    """Samples by row number."""

    size: int
    in_memory: bool

    def rows(self, index: NDArray[np.int64], rng: np.random.Generator | None = None) -> dict[str, NDArray[Any]]: ...


def open_dataset(settings: dict[str, Any]) -> Dataset:
    """The data that `settings` describe. Raises ValueError."""
    module = importlib.import_module(f"{__name__}.{settings['kind']}")
    return cast(Dataset, module.open_dataset(settings))


def class_names(settings: dict[str, Any]) -> list[str]:
    """Names of the classes, as the data holds them; empty if it holds none. Raises ValueError."""
    module = importlib.import_module(f"{__name__}.{settings['kind']}")
    find = getattr(module, "class_names", None)
    return [] if find is None or not settings["classes"] else cast(list[str], find(settings))
