"""Latents that were cached with a file per sample, as fast-DiT does: 0.npy, 1.npy, … in two folders.

A file of the first folder holds latents [1, C, h, w] or [C, h, w], or moments [2 C, h, w]; one of the second the label.
"""

from pathlib import Path
from typing import Any

import numpy as np

from latentc.datasets.arrays import Array, check_classes, files_below, integers, reading
from latentc.datasets.moments import checked, drawn


class Features:
    """Latents, drawn from their moments if those were stored, times `scale`."""

    in_memory = False

    def __init__(self, settings: dict[str, Any]):
        self.settings, self.fields = settings, settings["fields"]
        self.features = folder(settings["path"], "features")
        self.classes = folder(settings["path"], "labels") if "y" in self.fields else None
        files = [file for file in files_below(self.features, {".npy"}) if file.stem.isdigit()]
        self.numbers = np.array(sorted(int(file.stem) for file in files), np.int64)
        self.size = len(files)
        if not files:
            raise ValueError(f"path: {self.features} holds no 0.npy, 1.npy, …")
        self.rows(np.arange(1))

    def rows(self, index: Array, rng: np.random.Generator | None = None) -> dict[str, Array]:
        """Latents and labels; the mean of the latents if there is no `rng`."""
        numbers = [int(self.numbers[i]) for i in index]
        stored = [array_of(self.features / f"{number}.npy") for number in numbers]
        rank = len(self.fields["x"]["shape"])
        stored = [array[0] if array.ndim == rank + 1 and len(array) == 1 else array for array in stored]
        if len({array.shape for array in stored}) > 1:
            raise ValueError(f"{self.features} holds latents of different shapes")
        x = drawn(np.stack(stored), self.settings["moments"], rng) * np.float32(self.settings["scale"])
        found = {"x": checked(x, self.fields["x"], f"latents of {self.features}")}
        if self.classes is None:
            return found
        y = np.array([self._label(self.classes / f"{number}.npy") for number in numbers], np.int64)
        check_classes("y", y, self.fields["y"])
        return {**found, "y": y}

    def _label(self, file: Path) -> int:
        labels = integers(array_of(file), str(file))
        if labels.size != 1:
            raise ValueError(f"{file} holds {labels.size} labels instead of one")
        return int(labels.flat[0])


def folder(path: str, what: str) -> Path:
    """The folder of features or labels below `path`: `features`, or `imagenet256_features`. Raises ValueError."""
    root = Path(path)
    found = sorted(p for p in root.glob(f"*{what}") if p.is_dir()) if root.is_dir() else []
    if len(found) != 1:
        held = f"has {', '.join(p.name for p in found)}" if found else f"has no folder *{what}"
        raise ValueError(f"path: {root} {held}, but needs exactly one, such as imagenet256_{what}")
    return found[0]


def array_of(file: Path) -> Array:
    """The array of an .npy file. Raises ValueError."""
    with reading(file, "an .npy file of numbers"):
        array: Array = np.load(file, allow_pickle=False)
        if array.dtype.kind not in "iuf" or not array.size:
            raise ValueError(f"it holds {array.dtype}{array.shape}")
    return array


def open_dataset(settings: dict[str, Any]) -> Features:
    """The latents that `settings` describe. Raises ValueError."""
    if "x" not in settings["fields"]:
        raise ValueError("the data are latents, but the model takes none")
    return Features(settings)
