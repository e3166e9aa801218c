"""Inspects arrays in an .npz file or in a folder of .npy files."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from latentc.datasets.arrays import LEVELS, Array, drawn_rows, reading
from latentc.survey.report import Finding, Survey
from latentc.survey.sections import Section, first_of
from latentc.survey.sheet import Sheet

SAMPLES = ("x", "images", "image", "x_train", "train_images", "data", "samples", "pixels", "imgs", "arr_0")
LABELS = ("y", "labels", "label", "y_train", "train_labels", "targets", "classes", "arr_1")
CHUNK = 1 << 25  # values looked at at once


def arrays_of(section: Section, most: int | None, given: dict[str, str] | None = None) -> tuple[Survey, Sheet]:
    """A report on the arrays of a file or folder. Raises ValueError if there are no samples among them.

    `given`: `keys` of a spec, names of the arrays of fields.
    """
    arrays, damaged = _opened(section)
    own = (given or {}).get("x")
    name = (
        own if own in arrays else first_of(arrays, SAMPLES) or max(arrays, key=lambda n: arrays[n].ndim, default=None)
    )
    if name is None or arrays[name].ndim < 2 or arrays[name].dtype.kind not in "biuf":
        held = ", ".join(f"{n} {a.dtype}{list(a.shape)}" for n, a in arrays.items()) or "nothing that can be read"
        raise ValueError(f"no array of samples: it holds {held}")
    x = arrays[name]
    label = first_of([n for n, a in arrays.items() if a.shape == x.shape[:1] and a.dtype.kind in "biu"], LABELS)
    keys = {field: key for field, key in (("x", name), ("y", label)) if key is not None and key != field}
    found = Survey(section["path"], dict(section), len(x), damaged=damaged, dtype=str(x.dtype))
    if keys and section["kind"] == "npz":
        found.section["keys"] = keys
    elif keys:
        found.notes.append(f"rename {', '.join(f'{key}.npy to {field}.npy' for field, key in keys.items())}")
    y = None if label is None else arrays[label].astype(np.int64)
    if y is not None and len(y):
        found.classes = np.bincount(y.clip(0)).tolist()
        found.section["classes"] = len(found.classes)
        if y.min() < 0:
            found.notes.append(f"labels start at {y.min()}, but classes are numbered from 0")
    found.ignored += [f"{n} {a.dtype}{list(a.shape)}" for n, a in arrays.items() if n not in (name, label)]
    axes = _layout(x)
    if axes is not None:
        sizes = {"C": 1, **dict(zip(axes, x.shape[1:], strict=True))}
        found.shape = (sizes["C"], sizes["H"], sizes["W"])
        found.modes["grey" if found.shape[0] == 1 else "RGB"] = len(x)
        found.sizes[(found.shape[2], found.shape[1])] = len(x)
    else:
        found.shape = x.shape[1:]
    found.section["shape"] = list(found.shape)
    rows = drawn_rows(y, len(x), len(x) if most is None else most)
    sheet = Sheet(len(found.classes))
    _statistics(found, x, rows, axes)
    if axes is not None:
        _pictures(found, sheet, x, y, rows, axes)
    return found, sheet


def _opened(section: Section) -> tuple[dict[str, Array], list[Finding]]:
    """The arrays by name, and those that cannot be read."""
    path = Path(section["path"])
    found, damaged = dict[str, Array](), list[Finding]()
    if path.is_dir():
        names = {file.stem: file for file in sorted(path.glob("*.npy"))}
        readers: dict[str, Any] = {n: (lambda file=file: np.load(file, mmap_mode="r")) for n, file in names.items()}
    else:
        with reading(path, "an .npz file of numbers"):
            stored = np.load(path)
            if not isinstance(stored, np.lib.npyio.NpzFile):
                raise ValueError("it holds a single array")
        readers = {name: (lambda name=name: stored[name]) for name in stored.files}
    for name, read in readers.items():
        try:
            found[name] = read()
        except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
            damaged.append(Finding(name, f"cannot be read: {' '.join(str(error).split())}"))
    return found, damaged


def _layout(x: Array) -> str | None:
    """Axes of one sample if samples are images: "CHW", "HWC" or "HW"."""
    shape = x.shape[1:]
    if len(shape) == 2 and min(shape) >= 8 and x.dtype.name in (*LEVELS, "float32", "float64"):
        return "HW"
    if len(shape) != 3:
        return None
    return "CHW" if shape[0] in (1, 3) else "HWC" if shape[2] in (1, 3) else None


def _statistics(found: Survey, x: Array, rows: Array, axes: str | None) -> None:
    """Range, mean and deviation per channel, and samples whose values are not finite."""
    channel = 1 + axes.index("C") if axes is not None and "C" in axes else None
    if axes is None and x.ndim > 2:
        channel = 1
    others = tuple(i for i in range(x.ndim) if i != channel)
    step = max(1, CHUNK // max(1, x[0].size))
    count, total, squares = 0, np.zeros(1), np.zeros(1)
    least, most, extreme = np.inf, -np.inf, 0.0
    for at in range(0, len(rows), step):
        index = rows[at : at + step]
        part = np.asarray(x[index])
        values = part.astype(np.float64)
        if part.dtype.kind == "f" and not (finite := np.isfinite(values).reshape(len(values), -1).all(axis=1)).all():
            found.damaged += [
                Finding(f"sample {int(row)}", "holds values that are not finite") for row in index[~finite]
            ]
            values = values[finite]
        found.read += len(index)
        if not len(values):
            continue
        least, most = min(least, float(values.min())), max(most, float(values.max()))
        count += values.size // (1 if channel is None else values.shape[channel])
        total, squares = total + values.sum(axis=others), squares + (values**2).sum(axis=others)
        near = (most - least) / 8
        extreme += float(((values < least + near) | (values > most - near)).mean()) * len(values)
    if not count:
        return
    whole = LEVELS.get(x.dtype.name, (0, 1))[1] if found.modes else 1
    mean, deviation = total / count, np.sqrt(np.maximum(squares / count - (total / count) ** 2, 0))
    found.mean, found.deviation = ([round(float(v) / whole, 4) for v in values] for values in (mean, deviation))
    found.least, found.most, found.glyphs = least, most, extreme / len(rows)
    if found.modes and x.dtype.kind == "f" and least >= 0 and most <= 1:
        found.notes.append("floats from 0 to 1, but models take images from -1 to 1: save 2 * x - 1, or uint8 pixels")
    elif found.modes and x.dtype.kind == "f" and max(abs(least), abs(most)) > 2:
        found.notes.append(f"floats from {least:g} to {most:g}, but models take images from -1 to 1: save uint8 pixels")
    elif found.modes and x.dtype.name not in LEVELS and x.dtype.kind in "iu":
        found.notes.append(f"{x.dtype} pixels have no known scale: save them as uint8 or uint16")


def _pictures(found: Survey, sheet: Sheet, x: Array, y: Array | None, rows: Array, axes: str) -> None:
    """Fills the sheet."""
    from PIL import Image

    low, high = LEVELS.get(x.dtype.name, (found.least or 0, found.most or 1))
    if x.dtype.kind == "f" and low >= -1 and high <= 1:
        low, high = (0 if low >= 0 else -1), 1
    for row in np.random.default_rng(0).permutation(rows)[: 1 << 14]:
        label = 0 if y is None else int(y[row])
        if not sheet.wants(label):
            continue
        values = np.asarray(x[row], np.float64)
        if not np.isfinite(values).all():
            continue
        pixels = np.clip((values - low) * (255 / max(high - low, 1e-12)), 0, 255).astype(np.uint8)
        pixels = pixels.transpose(1, 2, 0) if axes == "CHW" else pixels
        sheet.add(Image.fromarray(pixels[..., 0] if pixels.shape[-1:] == (1,) and axes != "HW" else pixels), label)
