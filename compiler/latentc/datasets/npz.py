"""Arrays of one .npz file."""

from pathlib import Path
from typing import Any

import numpy as np

from latentc.datasets.arrays import Arrays, absent, augmentation_of, reading


def open_dataset(settings: dict[str, Any]) -> Arrays:
    """The fields' arrays, by their own names or those in `keys`. Raises ValueError."""
    file, fields = Path(settings["path"]), settings["fields"]
    if not file.is_file():
        raise ValueError(f"path: no such file: {file}")
    augment = augmentation_of(settings)
    names = {name: settings["keys"].get(name, name) for name in fields if not (augment and name == "augment")}
    with reading(file, "an .npz file of numbers"):
        stored = np.load(file)
    with stored:
        for name, key in names.items():
            if key not in stored:
                raise ValueError(f"keys: {file} has {absent('array', key, stored.files, name)}")
        with reading(file, "an .npz file of numbers"):
            arrays = {name: stored[key] for name, key in names.items()}
    return Arrays(arrays, fields, settings["horizontal_flip"], augment)
