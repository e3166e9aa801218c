"""Reads a data set and reports its contents."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from latentc.datasets.arrays import drawn_rows
from latentc.datasets.arrow import Table, key_of
from latentc.datasets.image_files import ORIENTATION, SUFFIXES, TRANSPARENT, picture_from_file
from latentc.diagnostics import DiagnosticError
from latentc.survey.arrays import arrays_of
from latentc.survey.items import Items, from_table, items_of
from latentc.survey.report import Finding, Survey
from latentc.survey.sections import HUB, from_hub, is_hub_id, section_of
from latentc.survey.sheet import Sheet

Progress = Callable[[int, int], None]
PIXELS = 1 << 22  # of an image that statistics are computed of; larger ones are reduced
TINY, LONG = 8, 3.0  # short sides in pixels below which images are odd, and aspect ratios above which they are


def survey(
    path: str | Path,
    most: int | None = None,
    split: str = "train",
    progress: Progress = lambda done, total: None,
) -> tuple[Survey, Sheet]:
    """A report on the data at `path`, and pictures for a sheet.

    Reads at most `most` samples, drawn evenly over classes.

    DiagnosticError E0401 to E0403, E0422, E0423.
    """
    text = str(path)
    try:
        if is_hub_id(text):
            data, name = from_hub(text, split), text.rpartition("/")[2].removeprefix(HUB)
            table = Table([Path(file["filename"]) for file in data.cache_files])
            label = data.features.get(key_of("y", {}, list(data.features)))
            section = {"kind": "huggingface", "path": f"data/{name}"}
            items = from_table(section, table, list(getattr(label, "names", None) or []))
            items.notes.append(f"`latentc init --data {text}` saves it to data/{name}, for training")
            return survey_of(items, text, most, progress)
        section = section_of(path)
        if section["kind"] == "huggingface":
            section["split"] = split
        if section["kind"] in ("npz", "npy_folder"):
            return arrays_of(section, most)
        return survey_of(items_of(section), text, most, progress)
    except (ValueError, ImportError, OSError) as error:
        raise DiagnosticError.of("E0422", f"{text} cannot be inspected: {error}") from None


def survey_of(items: Items, path: str, most: int | None, progress: Progress) -> tuple[Survey, Sheet]:
    """A report on images, and pictures for a sheet."""
    found = Survey(path, items.section, items.size, ignored=items.ignored, notes=items.notes, names=items.names)
    if items.labels is not None:
        found.classes = np.bincount(items.labels.clip(0), minlength=items.classes).tolist()
    rows = drawn_rows(items.labels, items.size, items.size if most is None else most)
    rows = np.random.default_rng(0).permutation(rows)
    sheet, sums = Sheet(items.classes), _Sums()
    for row, name, source in items.read(rows):
        label = 0 if items.labels is None else int(items.labels[row])
        _look(found, sheet, sums, name, source, label)
        progress(found.read, len(rows))
    for findings in (found.damaged, found.odd):
        findings.sort(key=lambda one: (one.name, one.what))
    if found.channels == 3 and (grey := found.modes["grey"]) and 10 * grey < found.modes.total():
        found.notes.append(f"{grey:,} of {found.modes.total():,} images are grey")
    sums.put_into(found)
    found.section = {**found.section, **({"shape": shape} if (shape := suggested_shape(found)) else {})}
    return found, sheet


def suggested_shape(found: Survey) -> list[int]:
    """[C, S, S] with the largest side S of 8, 16, 32, … 256 that half of the images have; empty if none can be read."""
    sides = found.sides
    if not len(sides):
        return []
    usual = int(np.median(sides))
    exact = sides[0] == sides[-1] and usual % 4 == 0 and 8 <= usual <= 256
    side = usual if exact else 2 ** int(math.log2(max(8, min(256, usual))))
    return [found.channels, side, side]


class _Sums:
    """Sums over pixels, per channel."""

    def __init__(self) -> None:
        self.count, self.total, self.squares = 0.0, np.zeros(3), np.zeros(3)
        self.least, self.most, self.extreme = 255, 0, 0.0

    def add(self, picture: Any) -> None:
        """A picture of Pillow, grey or RGB: each has the same weight, whatever its size."""
        ends = np.asarray(picture.getextrema())
        self.least, self.most = min(self.least, int(ends.min())), max(self.most, int(ends.max()))
        factor = int(math.sqrt(picture.width * picture.height / PIXELS))
        levels = np.asarray(picture.reduce(factor) if factor > 1 else picture)
        flat = levels.reshape(-1, levels.shape[2] if levels.ndim == 3 else 1)
        self.extreme += float(((levels < 32) | (levels > 223)).mean())
        values = flat.astype(np.float32) / 255
        self.count += 1
        self.total += values.mean(axis=0)
        self.squares += (values**2).mean(axis=0)

    def put_into(self, found: Survey) -> None:
        """Sets the statistics of a report."""
        if not self.count:
            return
        mean = self.total / self.count
        deviation = np.sqrt(np.maximum(self.squares / self.count - mean**2, 0))
        found.mean, found.deviation = ([round(float(v), 4) for v in x[: found.channels]] for x in (mean, deviation))
        found.least, found.most, found.glyphs = float(self.least), float(self.most), self.extreme / self.count


def _look(found: Survey, sheet: Sheet, sums: _Sums, name: str, source: Any, label: int) -> None:
    """Reads one image."""
    found.read += 1
    try:
        if isinstance(source, ValueError):
            raise source
        picture = picture_from_file(source, name)
        whats = _oddities(source, name)
    except ValueError as error:
        words = str(error).removeprefix(f"{name} ")
        found.damaged.append(Finding(name, words))
        return
    found.odd += [Finding(name, what) for what in whats]
    found.sizes[picture.size] += 1
    found.modes["grey" if picture.mode == "L" else "RGB"] += 1
    sums.add(picture)
    if sheet.wants(label):
        sheet.add(picture, label)


def _oddities(source: Any, name: str) -> list[str]:
    """Notes on what is unusual about an image that can be read."""
    from PIL import Image

    if hasattr(source, "seek"):
        source.seek(0)
    whats = []
    with Image.open(source) as file:
        mode, (width, height) = file.mode, file.size
        if min(width, height) < TINY:
            whats.append(f"{width} × {height} pixel{'s' * (width * height > 1)}")
        elif max(width, height) > LONG * min(width, height):
            whats.append(f"{width} × {height}, of which the centre square is used")
        if mode.startswith("I"):
            whats.append("16 bits per channel, scaled to 8")
        elif mode == "F":
            whats.append("floats, scaled to 8 bits")
        elif mode not in ("1", "L", "RGB", "P", *TRANSPARENT):
            whats.append(f"{mode}, converted to RGB")
        if (mode in TRANSPARENT or "transparency" in file.info) and _transparent(file):
            whats.append("transparent, shown on white")
        if (frames := _frames(file)) > 1:
            whats.append(f"{frames} frames, of which the first is used")
        if _turned(file):
            whats.append("turned as its EXIF says")
        suffix = Path(name).suffix.lower()
        if suffix in SUFFIXES and Image.registered_extensions().get(suffix) not in (file.format, None):
            whats.append(f"a {file.format} file in spite of its name")
    return whats


def _transparent(file: Any) -> bool:
    low, _ = file.convert("RGBA").getchannel("A").getextrema()
    return bool(low < 255)


def _frames(file: Any) -> int:
    try:
        return int(getattr(file, "n_frames", 1))
    except Exception:  # of damaged frames after the first, which nothing reads
        return 1


def _turned(file: Any) -> bool:
    try:
        return bool(file.getexif().get(ORIENTATION, 1) != 1)
    except Exception:  # EXIF can be damaged in many ways
        return False
