"""The files of a zip or a folder that dataset_tool.py of EDM or EDM2 wrote, with their labels in dataset.json.

Source: dataset_tool.py of EDM2 (Karras et al. 2024, arXiv:2312.02696).
"""

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from latentc.datasets.arrays import Array, files_below, reading, states


class Archive:
    """The files of a zip or a folder; each process opens the zip for itself."""

    def __init__(self, path: str, suffixes: set[str]):
        self.path = Path(path)
        self.zip: zipfile.ZipFile | None = None
        if self.path.is_dir():
            every = files_below(self.path, suffixes)
            self.names = sorted(str(file.relative_to(self.path).as_posix()) for file in every)
        elif self.path.is_file():
            with reading(self.path, "a zip"), zipfile.ZipFile(self.path) as archive:
                shown = (name for name in archive.namelist() if not any(p[:1] == "." for p in name.split("/")))
                self.names = sorted(name for name in shown if Path(name).suffix.lower() in suffixes)
        else:
            raise ValueError(f"path: no such file or folder: {self.path}")
        if not self.names:
            raise ValueError(f"path: {self.path} holds no {' or '.join(sorted(suffixes)[:3])}")

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "zip": None}

    def read(self, name: str) -> bytes:
        """The content of a file. Raises ValueError."""
        with reading(f"{name} in {self.path}", "a file of the data set"):
            if self.path.is_dir():
                return (self.path / name).read_bytes()
            if self.zip is None:
                self.zip = zipfile.ZipFile(self.path)
            return self.zip.read(name)

    def labels(self, classes: int) -> Array:
        """The label of each file, as dataset.json gives it; zeros if the model has no classes. Raises ValueError."""
        if not classes:
            return np.zeros(len(self.names), np.int64)
        content = self.read("dataset.json")
        with reading(f"dataset.json in {self.path}", "a list of files and labels"):
            rows = json.loads(content)["labels"]
            if rows is None:
                raise ValueError("it has no labels")
            known = {str(name).replace("\\", "/"): label for name, label in rows}
            labels = [known[name] for name in self.names]
            if not all(type(label) is int and abs(label) < 1 << 63 for label in labels):
                raise ValueError("labels must be class numbers")
        return np.array(labels, np.int64)

    def identity(self) -> list[str]:
        status = self.path.stat()
        names = states(map(self.path.joinpath, self.names), self.path) if self.path.is_dir() else self.names
        return [f"{self.path} {status.st_size} {status.st_mtime_ns}", *names]
