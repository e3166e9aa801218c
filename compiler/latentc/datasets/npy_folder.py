"""A folder with one .npy file per field, mapped into memory: for data larger than memory."""

from pathlib import Path
from typing import Any

import numpy as np

from latentc.datasets.arrays import Arrays, augmentation_of, reading


def open_dataset(settings: dict[str, Any]) -> Arrays:
    """The fields' arrays: x.npy [N, ...], y.npy [N], … Raises ValueError."""
    folder, fields, arrays = Path(settings["path"]), settings["fields"], {}
    augment = augmentation_of(settings)
    for name in fields:
        if augment and name == "augment":
            continue
        file = folder / f"{name}.npy"
        if not file.is_file():
            raise ValueError(f"path: no such file: {file}")
        with reading(file, "an .npy file of numbers"):
            arrays[name] = np.load(file, mmap_mode="r")
    return Arrays(arrays, fields, settings["horizontal_flip"], augment, in_memory=False)
