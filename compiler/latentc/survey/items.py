"""The images of a data set one by one, as files or bytes with their labels, for each kind of data."""

from __future__ import annotations

import importlib
import io
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from latentc.datasets.arrays import Array, files_below, folder_names, integers
from latentc.datasets.arrow import ArrowPictures, Table, features_from_metadata, key_of, names_from_features, numbers
from latentc.datasets.image_files import SUFFIXES
from latentc.diagnostics import DiagnosticError
from latentc.survey.sections import Section

SPLITS = {"train", "training", "test", "val", "valid", "validation", "eval", "dev"}
Item = tuple[int, str, Any]  # number, name, and a path or an opened file; a ValueError if there is none


@dataclass
class Items:
    """Images by number. `labels` i64[N], or None. `classes`: their number, also without samples."""

    section: Section
    size: int
    labels: Array | None = None
    classes: int = 0
    names: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    pictures: Any = None

    def read(self, rows: Array) -> Iterator[Item]:
        """The images of some rows, in any order."""
        for row in rows:
            try:
                yield int(row), *self.pictures.content(int(row))
            except (OSError, ValueError) as error:
                yield int(row), f"row {row}", ValueError(str(error))


def items_of(section: Section, given: dict[str, Any] | None = None) -> Items:
    """The images that a `data` section reads. `given`: settings of a spec, else the defaults of the kind.

    Raises ValueError if the reader refuses the data.
    """
    kind, path = section["kind"], section["path"]
    if kind == "image_folder":
        return _folder(section, Path(path), given)
    if kind == "parquet":
        return _Parquet.opened(section, given)
    reader = importlib.import_module(f"latentc.datasets.{kind}")
    settings: dict[str, Any] = {"fields": {}, "keys": {}, "split": "train", "augment": 0, "part": "train"}
    settings |= {"label": "cls", "first_stage": None, "per_image": 1, **section, **(given or {})}
    settings["fields"] = {}
    labelled, notes = True, []
    if kind == "imagenet" and not settings.get("classes"):
        settings["classes"] = len(reader.synsets_of(Path(path)))
    elif given is None or settings["classes"]:
        settings["classes"] = settings.get("classes") or 1
    try:
        pictures = reader.open_pictures(settings, 8, 3)
    except (ValueError, KeyError) as error:
        if given is not None or kind == "imagenet":
            raise
        pictures, labelled = reader.open_pictures({**settings, "classes": 0}, 8, 3), False
        notes.append(f"without labels: {' '.join(str(error).split())}")
    find = getattr(reader, "class_names", None)
    names = list(find(settings)) if find is not None and labelled and settings["classes"] else []
    labels = pictures.y if labelled and settings["classes"] else None
    return _labelled(Items(section, pictures.size, labels, 0, names, notes=notes, pictures=pictures))


def from_table(section: Section, table: Table, names: list[str]) -> Items:
    """The images in the Arrow files of a data set of Hugging Face."""
    columns = table.names()
    image, label = key_of("x", {}, columns), key_of("y", {}, columns)
    if image not in columns:
        raise ValueError(f"no column of images: columns are {', '.join(columns)}; name it with `keys: {{x: …}}`")
    settings = {"keys": {}, "fields": {}, "augment": 0, "classes": label in columns}
    pictures = ArrowPictures(table, settings, 8, 3)
    labels = pictures.y if label in columns else None
    return _labelled(Items(section, pictures.size, labels, 0, names, pictures=pictures))


def _labelled(items: Items) -> Items:
    """Items with the number of classes, which the section then has, too."""
    if items.labels is not None and items.size:
        if items.labels.min() < 0:
            items.notes.append(f"labels start at {items.labels.min()}, but classes are numbered from 0")
        items.classes = max(int(items.labels.max()) + 1, len(items.names))
        items.section = {**items.section, "classes": items.classes}
    return items


# ---- folders


class _Files:
    def __init__(self, files: list[Path]) -> None:
        self.files = files

    def content(self, index: int) -> tuple[str, Path]:
        return str(self.files[index]), self.files[index]


def _folder(section: Section, root: Path, given: dict[str, Any] | None) -> Items:
    notes: list[str] = []
    folders = folder_names(str(root))
    if given is None and folders and {name.casefold() for name in folders} <= SPLITS:
        chosen = next((name for name in folders if name.casefold() in ("train", "training")), folders[0])
        notes.append(f"{', '.join(folders)} are splits; `{chosen}` was inspected")
        root = root / chosen
        section, folders = {**section, "path": str(root)}, folder_names(str(root))
    by_class = {name: files_below(root / name, SUFFIXES) for name in folders}
    classes = len(folders) if given is None else int(given["classes"])
    if given is None and (classes < 2 or not any(by_class.values())):
        if classes == 1 and any(by_class.values()):
            notes.append(f"one folder, `{folders[0]}`, is no division into classes: without labels")
        classes = 0
    if classes:
        files = [file for held in by_class.values() for file in held]
        labels = np.repeat(np.arange(len(folders)), [len(held) for held in by_class.values()])
        notes += [
            f"class folder `{name}` holds no images, which training refuses" for name, f in by_class.items() if not f
        ]
    else:
        files, labels = files_below(root, SUFFIXES), None
    ignored = list(_ignored(root, bool(classes)))
    section = {**section, "classes": classes} if classes else section
    names = folders if classes else []
    return Items(section, len(files), labels, classes, names, ignored, notes, _Files(files))


def _ignored(root: Path, classes: bool) -> Iterator[str]:
    """Hidden files and folders below `root`, and by suffix files that are no images."""
    others: Counter[str] = Counter()
    beside = 0
    for folder, folders, files in os.walk(root):
        for name in sorted(n for n in folders if n[0] == "."):
            held = sum(len(found) for _, _, found in os.walk(Path(folder, name)))
            yield f"{Path(folder, name)} (hidden folder, {counted(held, 'file')})"
        folders[:] = sorted(name for name in folders if name[0] != ".")
        for name in sorted(files):
            suffix = Path(name).suffix.lower()
            if name[0] == ".":
                yield f"{Path(folder, name)} (hidden file)"
            elif suffix not in SUFFIXES:
                others[suffix or name] += 1
            elif classes and Path(folder) == root:
                beside += 1
    if beside:
        yield f"{counted(beside, 'image')} in {root} itself, beside the class folders"
    yield from (f"{counted(count, 'file')} {suffix} (not read as images)" for suffix, count in sorted(others.items()))


def counted(count: int, what: str) -> str:
    """A number with its noun: "1 file", "2 files"."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


# ---- parquet, without the copy that training makes


@dataclass
class _Parquet(Items):
    files: list[Path] = field(default_factory=list)
    key: str = ""

    @classmethod
    def opened(cls, section: Section, given: dict[str, Any] | None) -> _Parquet:
        import pyarrow.parquet as pq

        from latentc.datasets.arrays import reading
        from latentc.datasets.parquet import files_of

        keys = (given or {}).get("keys", {})
        files = files_of(section)
        with reading(files[0], "parquet"):
            schema = pq.ParquetFile(files[0]).schema_arrow
        image, label = key_of("x", keys, schema.names), key_of("y", keys, schema.names)
        if image not in schema.names:
            raise ValueError(
                f"no column of images: columns are {', '.join(schema.names)}; name it with `keys: {{x: …}}`"
            )
        names = names_from_features(features_from_metadata(schema.metadata), keys)
        with reading(section["path"], "parquet"):
            size = sum(pq.ParquetFile(file).metadata.num_rows for file in files)
        labels = None
        if label in schema.names and (given is None or given["classes"]):
            with reading(section["path"], "parquet"):
                held = [pq.read_table(file, columns=[label]).column(label) for file in files]
            try:
                labels = np.concatenate([integers(numbers(one, label), f"column `{label}`") for one in held])
            except ValueError:
                if given is not None:
                    raise
        found = cls(section, size, labels, 0, names, files=files, key=image)
        if labels is None and label in schema.names and given is None:
            found.notes.append(f"column `{label}` does not hold numbers: without labels")
        _labelled(found)
        return found

    def read(self, rows: Array) -> Iterator[Item]:
        import pyarrow.parquet as pq

        wanted, at = set(rows.tolist()), 0
        for file in self.files:
            try:
                for batch in pq.ParquetFile(file).iter_batches(64, columns=[self.key]):
                    chosen = [i for i in range(len(batch)) if at + i in wanted]
                    column = batch.column(0)
                    for i in chosen:
                        value = column[i].as_py()
                        content = value.get("bytes") if isinstance(value, dict) else value
                        name = f"row {at + i} of column `{self.key}`"
                        if isinstance(content, bytes):
                            yield at + i, name, io.BytesIO(content)
                        else:
                            yield at + i, name, ValueError("does not hold the bytes of an image file")
                    at += len(batch)
            except GeneratorExit:
                raise
            except Exception as error:  # of pyarrow, for a damaged file
                words = " ".join(str(error).split())
                raise DiagnosticError.of("E0403", f"{file} cannot be read as parquet: {words}") from None
