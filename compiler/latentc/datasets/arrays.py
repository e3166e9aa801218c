"""Samples in arrays, in memory or mapped from files."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Augmentation = tuple[float, list[str]]  # the probability of each, and their kinds
DTYPES = {"f32": np.float32, "i64": np.int64, "bool": np.bool_}


class Arrays:
    """One array [N, ...] per field.

    With `flip`, half of the samples have all their images mirrored; with `augment`, `x` is then augmented, and the
    field `augment` describes what that did, without the former mirroring.
    """

    def __init__(
        self,
        arrays: Mapping[str, Array],
        fields: Mapping[str, Any],
        flip: bool = False,
        augment: Augmentation | None = None,
        in_memory: bool = True,
    ):
        self.arrays, self.fields, self.flip, self.augment = arrays, fields, flip, augment
        self.in_memory = in_memory
        for name, array in arrays.items():
            if array.ndim == 0 or array.dtype.kind not in "biuf":
                raise ValueError(
                    f"field `{name}` is not an array of numbers, one per sample: {array.dtype}{array.shape}"
                )
        self.size = len(next(iter(arrays.values())))
        if not self.size:
            raise ValueError("the data is empty")
        for name, array in arrays.items():
            if len(array) != self.size:
                raise ValueError(f"field `{name}` has {len(array)} samples, but the first field has {self.size}")
            shape = list(as_declared(array[:1], fields[name]).shape[1:])
            if shape != list(fields[name]["shape"]):
                raise ValueError(f"samples of `{name}` have shape {shape}, but the model takes {fields[name]['shape']}")
            check_classes(name, array if in_memory or array.ndim == 1 else array[:1024], fields[name])

    def rows(self, index: Array, rng: np.random.Generator | None = None) -> dict[str, Array]:
        """Samples by field; noisy, and mirrored at random if `flip` is on, if `rng` is given."""
        found = {name: as_declared(array[index], self.fields[name]) for name, array in self.arrays.items()}
        for name, x in found.items():
            if rng is not None and (deviation := self.fields[name].get("noise")):
                found[name] = x + np.float32(deviation) * rng.standard_normal(x.shape, np.float32)
        if self.flip and rng is not None:
            mirrored = rng.random(len(index)) < 0.5
            for name in found:
                if self.fields[name]["medium"] == "image" and "width" in self.fields[name]["axes"]:
                    found[name] = mirror(found[name], mirrored, 1 + self.fields[name]["axes"].index("width"))
        return augmented_rows(found, self.fields["x"], self.augment, rng) if self.augment else found


@contextlib.contextmanager
def reading(file: Any, what: str) -> Iterator[None]:
    """Raises ValueError in place of the many exceptions that numpy, zipfile and Pillow raise for a damaged file."""
    try:
        yield
    except Exception as error:
        raise ValueError(f"{file} cannot be read as {what}: {error}") from None


def augmentation_of(settings: Mapping[str, Any]) -> Augmentation | None:
    """The augmentation that a reader's settings ask for."""
    return (settings["augment"], settings["augmentations"]) if settings["augment"] else None


def augmented_rows(
    rows: dict[str, Array], field: Mapping[str, Any], augment: Augmentation, rng: np.random.Generator | None
) -> dict[str, Array]:
    """Rows with `x` augmented and what was done in `augment` f32[n, L]; zeros if there is no `rng`."""
    from latentc.datasets.augment import augmented, columns_of

    if rng is None:
        return {**rows, "augment": np.zeros((len(rows["x"]), len(columns_of(augment[1]))), np.float32)}
    channel, height, width = (1 + field["axes"].index(axis) for axis in ("channel", "height", "width"))
    x, labels = augmented(rows["x"], (channel, height, width), *augment, rng)
    return {**rows, "x": np.ascontiguousarray(x), "augment": labels}


def as_declared(x: Array, field: Mapping[str, Any]) -> Array:
    """Rows of a field in its dtype and shape; uint8 pixels [n, ..., H, W, C] are scaled to its range.

    Numbers [n] are vectors [n, 1] if the field's shape is [1].
    """
    if x.dtype == np.uint8 and field["medium"] in ("image", "video") and "range" in field:
        low, high = field["range"]
        x = x.astype(np.float32) * np.float32((high - low) / 255) + np.float32(low)
        if "channel" in field["axes"] and x.shape[1:] != tuple(field["shape"]) and x.ndim == 1 + len(field["axes"]):
            x = np.moveaxis(x, -1, 1 + field["axes"].index("channel"))
    if x.ndim == 1 and list(field["shape"]) == [1]:
        x = x[:, None]
    return np.ascontiguousarray(x, DTYPES[field["dtype"]])


def check_classes(name: str, x: Array, field: Mapping[str, Any]) -> None:
    """Raises ValueError unless the integers of a field are in [0, classes)."""
    count = field.get("classes")
    if count is not None and x.size and not 0 <= int(x.min()) <= int(x.max()) < count:
        raise ValueError(f"values of `{name}` run from {x.min()} to {x.max()}, but the model has {count}, from 0")


def mirror(x: Array, chosen: Array, axis: int) -> Array:
    """Rows of x, those that are chosen reversed along the axis."""
    return np.where(chosen.reshape(-1, *[1] * (x.ndim - 1)), np.flip(x, axis), x)


def states(files: Iterable[Any], root: Any) -> list[str]:
    """Texts that differ if files below `root` do, for caches: their names, sizes and times of change."""
    found = [(file.relative_to(root), file.stat()) for file in files]
    return [f"{name} {status.st_size} {status.st_mtime_ns}" for name, status in found]


def folder_names(path: str) -> list[str]:
    """Names of the folders in `path`, in the order of their labels; empty if there is no such folder."""
    from pathlib import Path

    root = Path(path)
    return sorted(p.name for p in root.iterdir() if p.is_dir()) if root.is_dir() else []


def class_folders(path: str, classes: int, what: str, suffixes: set[str]) -> tuple[list[Any], Array]:
    """Files below `path` and their labels: one folder per class, in sorted order; no folders if `classes` is 0."""
    from pathlib import Path

    root = Path(path)
    folders = [root / name for name in folder_names(path)]
    if classes and len(folders) != classes:
        found = f"has {len(folders)}" if folders else "is not a folder with one sub-folder per class"
        raise ValueError(f"path: {root} {found}, but the model has {classes} classes")
    files, labels = [], []
    for label, folder in enumerate(folders if classes else [root]):
        here = [file for file in sorted(folder.rglob("*")) if file.suffix.lower() in suffixes]
        files += here
        labels += [label] * len(here)
    if not files:
        raise ValueError(f"path: {root} holds no {what}")
    return files, np.array(labels, dtype=np.int64)
