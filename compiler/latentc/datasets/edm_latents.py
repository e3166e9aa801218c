"""Latents that EDM2 cached: a zip or a folder with dataset.json and an .npy file per sample.

A file holds the mean and the deviation of the latents, stacked along the channels. Source: dataset_tool.py and
training/encoders.py of EDM2 (Karras et al. 2024, arXiv:2312.02696).
"""

import io
from typing import Any

import numpy as np

from latentc.datasets.archive import Archive
from latentc.datasets.arrays import Array, check_classes, reading
from latentc.datasets.moments import checked, drawn, normalised


class EdmLatents:
    """The latents of an archive, drawn from their moments and normalised."""

    in_memory = False

    def __init__(self, settings: dict[str, Any]):
        self.settings, self.fields = settings, settings["fields"]
        self.archive = Archive(settings["path"], {".npy"})
        self.size, self.y = len(self.archive.names), self.archive.labels(settings["classes"])
        if "y" in self.fields:
            check_classes("y", self.y, self.fields["y"])
        self.labels: Array | None = self.y if "y" in self.fields else None
        self.rows(np.arange(1))

    def rows(self, index: Array, rng: np.random.Generator | None = None) -> dict[str, Array]:
        """Latents and labels; the mean of the latents if there is no `rng`."""
        names = [self.archive.names[int(i)] for i in index]
        stored = [self.array(name) for name in names]
        if len({array.shape for array in stored}) > 1:
            raise ValueError(f"{self.archive.path} holds latents of different shapes")
        latents = drawn(np.stack(stored), "std", rng)
        mean, std = self.settings["latent_mean"], self.settings["latent_std"]
        if latents.shape[1] != len(mean) or len(mean) != len(std):
            raise ValueError(f"latent_mean: {len(mean)} channels, but the latents have {latents.shape[1]}")
        x = normalised(latents, mean, std, self.settings["deviation"])
        found = {"x": checked(x, self.fields["x"], f"latents of {self.archive.path}")}
        return {**found, "y": self.y[index]} if "y" in self.fields else found

    def array(self, name: str) -> Array:
        """One array. Raises ValueError."""
        content = self.archive.read(name)
        with reading(f"{name} in {self.archive.path}", "an .npy file of numbers"):
            array: Array = np.load(io.BytesIO(content), allow_pickle=False)
            if array.dtype.kind != "f":
                raise ValueError(f"it holds {array.dtype}")
        return array


def open_dataset(settings: dict[str, Any]) -> EdmLatents:
    """The latents that `settings` describe. Raises ValueError."""
    if "x" not in settings["fields"]:
        raise ValueError("the data are latents, but the model takes none")
    return EdmLatents(settings)
