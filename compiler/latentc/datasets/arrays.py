"""Samples in arrays, in memory or mapped from files."""

import contextlib
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Augmentation = tuple[float, list[str]]  # the probability of each, and their kinds
DTYPES = {"f32": np.float32, "i64": np.int64, "bool": np.bool_}
# The integers that stand for the low and the high end of a field's range, by dtype.
LEVELS: dict[str, tuple[float, float]] = {"bool": (0, 1), "uint8": (0, 255), "uint16": (0, 65535)}
PCM: dict[str, tuple[float, float]] = {"int16": (-(2.0**15), 2.0**15), "int32": (-(2.0**31), 2.0**31)}
FLOAT32 = float(np.finfo(np.float32).max)
FAR = 8.0  # widths of its range by which values may exceed it: noise stays within, pixels from 0 to 255 do not


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
            # Of large arrays the first rows; the others are checked when they are read.
            check_values(name, array if in_memory or array.ndim == 1 else array[:1024], fields[name])
            shape = list(as_declared(name, array[:1], fields[name]).shape[1:])
            if shape != list(fields[name]["shape"]):
                raise ValueError(f"samples of `{name}` have shape {shape}, but the model takes {fields[name]['shape']}")

    @property
    def labels(self) -> Array | None:
        """The class of each sample i64[N], if they have one."""
        if "y" not in self.arrays or not is_label(self.fields["y"]):
            return None
        return integers(np.asarray(self.arrays["y"]), "field `y`")

    def rows(self, index: Array, rng: np.random.Generator | None = None) -> dict[str, Array]:
        """Samples by field; noisy, and mirrored at random if `flip` is on, if `rng` is given."""
        found = {name: as_declared(name, array[index], self.fields[name]) for name, array in self.arrays.items()}
        for name, x in found.items():
            if rng is not None and (deviation := self.fields[name].get("noise")):
                found[name] = x + np.float32(deviation) * rng.standard_normal(x.shape, np.float32)
        if self.flip and rng is not None:
            mirrored = rng.random(len(index)) < 0.5
            for name in found:
                if self.fields[name]["medium"] == "image" and "width" in self.fields[name]["axes"]:
                    found[name] = mirror(found[name], mirrored, 1 + self.fields[name]["axes"].index("width"))
        return augmented_rows(found, self.fields["x"], self.augment, rng) if self.augment else found


def is_label(field: Mapping[str, Any]) -> bool:
    """True for a field of one class number per sample."""
    return not field["shape"] and field.get("classes") is not None


@contextlib.contextmanager
def reading(file: Any, what: str) -> Iterator[None]:
    """Raises ValueError in place of the many exceptions that numpy, zipfile and Pillow raise for a damaged file."""
    try:
        yield
    except Exception as error:
        raise ValueError(f"{file} cannot be read as {what}: {' '.join(str(error).split())}") from None


def absent(what: str, name: str, held: Iterable[str], field: str = "") -> str:
    """Says that there is no array or column of this name, which is most like it, and which there are."""
    import difflib

    names = [*held]
    near = difflib.get_close_matches(name, names, 1)
    use = f" for the field `{field}`" if field else ""
    return f"no {what} `{name}`{use}{f', perhaps `{near[0]}`' if near else ''}; {what}s: {', '.join(names)}"


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


def as_declared(name: str, x: Array, field: Mapping[str, Any]) -> Array:
    """Rows of the field `name` in its dtype and shape; pixels and sound are scaled to its range. Raises ValueError.

    Pixels of integers may be [n, ..., H, W, C], and grey pixels [n, ..., H, W]; numbers [n] are vectors [n, 1] if the
    field's shape is [1].
    """
    axes = field.get("axes", ())
    if field.get("medium") in ("image", "video") and "channel" in axes and x.ndim == len(axes):
        at = axes.index("channel")
        x = np.expand_dims(x, 1 + at) if field["shape"][at] == 1 else x
    if x.dtype.kind in "biu" and "range" in field and field["medium"] in ("image", "video", "audio"):
        x = scaled(name, x, field)
        if "channel" in field["axes"] and x.shape[1:] != tuple(field["shape"]) and x.ndim == 1 + len(field["axes"]):
            x = np.moveaxis(x, -1, 1 + field["axes"].index("channel"))
    if x.ndim == 1 and list(field["shape"]) == [1]:
        x = x[:, None]
    check_values(name, x, field)
    return np.ascontiguousarray(x, DTYPES[field["dtype"]])


def scaled(name: str, x: Array, field: Mapping[str, Any]) -> Array:
    """Integers as f32 in the field's range: pixels, or PCM of audio. Raises ValueError for dtypes of unknown scale."""
    known = PCM if field["medium"] == "audio" else LEVELS
    low, high = field["range"]
    if x.dtype.name not in known:
        fitting = ", ".join(known)
        raise ValueError(
            f"field `{name}` holds {x.dtype}, whose scale is unknown: store {field['medium']} as {fitting}, or as "
            f"floats from {low:g} to {high:g}"
        )
    least, most = known[x.dtype.name]
    scale = np.float32((high - low) / (most - least))
    return (x.astype(np.float32) - np.float32(least)) * scale + np.float32(low)


def check_values(name: str, x: Array, field: Mapping[str, Any]) -> None:
    """Raises ValueError if values would change when they become the field's dtype, or are far out of its range."""
    if field["dtype"] == "i64":
        integers(x, f"field `{name}`")
    elif field["dtype"] == "bool" and x.dtype.kind != "b" and not ((x == 0) | (x == 1)).all():
        raise ValueError(f"field `{name}` is true or false, but holds {x[(x != 0) & (x != 1)].flat[0]:g}")
    elif x.dtype.kind == "f" and x.size:
        least, most = float(x.min()), float(x.max())  # nan if one value is
        if not (least >= -FLOAT32 and most <= FLOAT32):
            raise ValueError(f"field `{name}` holds values that are not finite float32 numbers")
        low, high = field.get("range") or (-np.inf, np.inf)
        if max(most - high, low - least) > FAR * (high - low):
            raise ValueError(
                f"field `{name}` holds values from {least:g} to {most:g}, but its range is {low:g} to {high:g}: scale "
                "them, or declare their `range`"
            )
    check_classes(name, x, field)


def integers(x: Array, what: str) -> Array:
    """Whole numbers as i64, also if they are stored as floats. Raises ValueError for others."""
    if x.dtype.kind == "f":
        whole = np.isfinite(x) & (x == np.floor(x)) & (np.abs(x) < 2.0**63)
        if not whole.all():
            raise ValueError(f"{what} holds {x[~whole].flat[0]:g}, but must hold whole numbers")
    elif x.dtype.kind not in "biu" or (x.dtype == np.uint64 and x.size and int(x.max()) >= 1 << 63):
        raise ValueError(f"{what} does not hold integers of 64 bits, but {x.dtype}")
    return x.astype(np.int64, copy=False)


def integer(text: Any, what: str) -> int:
    """A whole number in a text or in JSON, such as a label. Raises ValueError."""
    words = text.decode("ascii", "replace") if isinstance(text, bytes) else str(text)
    if isinstance(text, bool) or not re.fullmatch(r"\s*[-+]?\d{1,18}(\.0*)?\s*", words, re.ASCII):
        raise ValueError(f"{what} is {words.strip()[:40]!r}, which is not a class number")
    return int(float(words)) if "." in words else int(words)


def check_classes(name: str, x: Array, field: Mapping[str, Any]) -> None:
    """Raises ValueError unless the integers of a field are in [0, classes)."""
    count = field.get("classes")
    if count is not None and x.size and not 0 <= int(x.min()) <= int(x.max()) < count:
        raise ValueError(f"values of `{name}` run from {x.min():g} to {x.max():g}, but the model has {count}, from 0")


def drawn_rows(labels: Array | None, size: int, most: int, seed: int = 0) -> NDArray[np.int64]:
    """At most `most` of `size` row numbers, ascending, drawn by `seed`: the same share of every class.

    `labels` i64[N]; without them, any rows.
    """
    if size <= most:
        return np.arange(size)
    # The stream of RandomState never changes (NEP 19).
    random = np.random.RandomState(np.random.MT19937(np.random.SeedSequence(seed)))
    order = random.permutation(size)
    if labels is not None:
        # The k-th row of a class of n gets the place (k + u) / n, with one u in [0, 1) per class: the lowest places
        # hold the same share of every class.
        order = order[np.argsort(labels[order], kind="stable")]
        _, starts, counts = np.unique(labels[order], return_index=True, return_counts=True)
        shift = np.repeat(random.random_sample(len(counts)), counts)
        place = (np.arange(size) - np.repeat(starts, counts) + shift) / np.repeat(counts, counts)
        order = order[np.argsort(place, kind="stable")]
    return np.sort(order[:most]).astype(np.int64)


def mirror(x: Array, chosen: Array, axis: int) -> Array:
    """Rows of x, those that are chosen reversed along the axis."""
    return np.where(chosen.reshape(-1, *[1] * (x.ndim - 1)), np.flip(x, axis), x)


def states(files: Iterable[Any], root: Any) -> list[str]:
    """Texts that differ if files below `root` do, for caches: their names, sizes and times of change."""
    found = [(file.relative_to(root), file.stat()) for file in files]
    return [f"{name} {status.st_size} {status.st_mtime_ns}" for name, status in found]


def files_below(root: Any, suffixes: Collection[str]) -> list[Any]:
    """Files below a folder that end in one of the suffixes, sorted; without hidden ones and those in hidden folders.

    Raises ValueError for what is named like such a file but cannot be read as one: a pipe, a device, a dead link.
    """
    from pathlib import Path

    found, folders = [], [Path(root)] if Path(root).is_dir() else []
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                path = Path(entry.path)
                if entry.is_dir(follow_symlinks=False):
                    folders.append(path)
                elif path.suffix.lower() in suffixes and not entry.is_dir():
                    if not entry.is_file():
                        raise ValueError(f"{path} is not a file, but a pipe, a device or a link to nothing")
                    found.append(path)
    return sorted(found)


def folder_names(path: str) -> list[str]:
    """Names of the folders in `path` that are not hidden, in the order of their labels; empty if there is no `path`."""
    from pathlib import Path

    root = Path(path)
    return sorted(p.name for p in root.iterdir() if p.is_dir() and p.name[0] != ".") if root.is_dir() else []


def class_folders(path: str, classes: int, what: str, suffixes: set[str]) -> tuple[list[Any], Array]:
    """Files below `path` and their labels: one folder per class, in sorted order; no folders if `classes` is 0."""
    from pathlib import Path

    root = Path(path)
    folders = [root / name for name in folder_names(path)]
    if classes and len(folders) != classes:
        names = ", ".join(folder.name for folder in folders[:4]) + (", …" if len(folders) > 4 else "")
        found = f"has {len(folders)} folders ({names})" if folders else "is not a folder with one sub-folder per class"
        raise ValueError(f"path: {root} {found}, but the model has {classes} classes")
    files, labels = [], []
    for label, folder in enumerate(folders if classes else [root]):
        here = files_below(folder, suffixes)
        if classes and not here:
            raise ValueError(f"path: {folder} holds no {what}, so class {label} has no samples")
        files += here
        labels += [label] * len(here)
    if not files:
        raise ValueError(f"path: {root} holds no {what}")
    return files, np.array(labels, dtype=np.int64)
