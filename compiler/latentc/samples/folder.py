"""A folder with a file per sample, and samples.csv with the seed and class of each."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from latentc.datasets.arrays import files_below
from latentc.datasets.image_files import SUFFIXES
from latentc.diagnostics import DiagnosticError, mend_of_writing
from latentc.files.named import write_text
from latentc.samples.job import Job
from latentc.samples.pictures import picture_from_bytes, png_from_picture, stacked
from latentc.samples.sets import Samples, begin_folder, names_of, read_about
from latentc_runtime.class_names import titles
from latentc_runtime.media import FORMATS

Array = np.ndarray
SHARDED = False
TABLE = "samples.csv"


class Writer:
    """Writes a file per sample: PNG for images, otherwise the usual format of the medium."""

    def __init__(self, path: Path, about: Mapping[str, Any], job: Job, conditions: Mapping[str, Array]) -> None:
        begin_folder(path, about, conditions)
        self.path, self.output = path, about["output"]
        self.suffix, self.encode = next(iter(FORMATS[self.output["medium"]].items()))
        self.digits = max(5, len(str(max(job.count - 1, 0))))
        if not (path / TABLE).is_file():
            write_text(path / TABLE, self._table(job, names_of(about)))
        there = {file.name for file in path.iterdir()}
        self.written = 0
        while self.written < job.count and self._name(self.written) in there:
            self.written += 1

    def _name(self, number: int) -> str:
        return f"{number:0{self.digits}d}{self.suffix}"

    def _table(self, job: Job, names: tuple[str, ...]) -> str:
        text = io.StringIO()
        rows = csv.writer(text, lineterminator="\n")
        rows.writerow(["file", "seed", *(["class", "name"] if job.labels is not None else [])])
        seeds = job.seeds.tolist()
        for i in range(job.count):
            labels = [] if job.labels is None else [int(job.labels[i]), *titles(names, [int(job.labels[i])])]
            rows.writerow([self._name(i), seeds[i], *labels])
        return text.getvalue()

    def write(self, samples: Samples) -> None:
        picture = self.output["medium"] == "image"
        for i, one in enumerate(samples.arrays):
            content = png_from_picture(one) if picture else self.encode(one[None], self.output, 1)
            write_quickly(self.path / self._name(samples.start + i), content)

    def close(self) -> None:
        """Nothing is left to do: every file is complete."""

    abandon = close


def write_quickly(path: Path, content: bytes) -> None:
    """Writes a file whole or not at all, without waiting for the disk. DiagnosticError E0412."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError as error:
        message = f"cannot write {path}: {error.strerror or error}"
        raise DiagnosticError.of("E0412", message, help=mend_of_writing(error)) from error


class Reader:
    """The pictures of a folder: those that samples.csv lists, otherwise all in sorted order.

    In a folder without samples.csv, sub-folders are classes.
    """

    format = "folder"

    def __init__(self, path: Path) -> None:
        self.path, self.about = path, read_about(path)
        self.class_names = names_of(self.about)
        self.seeds: Array | None = None
        self.labels: Array | None = None
        if (path / TABLE).is_file():
            self._listed(path / TABLE)
        else:
            self.files = images_below(path)
            folders = sorted({file.relative_to(path).parts[0] for file in self.files if file.parent != path})
            if folders and all(file.parent != path for file in self.files):
                numbers = {name: number for number, name in enumerate(folders)}
                labels = [numbers[file.relative_to(path).parts[0]] for file in self.files]
                self.labels, self.class_names = np.array(labels, np.int64), tuple(folders)
        self.count = len(self.files)

    def _listed(self, table: Path) -> None:
        try:
            with table.open(encoding="utf-8", newline="") as file:
                rows = list(csv.DictReader(file))
            self.files = [self.path / Path(row["file"]).name for row in rows]
            self.seeds = np.array([int(row["seed"]) for row in rows], np.uint64)
            if rows and "class" in rows[0]:
                self.labels = np.array([int(row["class"]) for row in rows], np.int64)
        except (KeyError, ValueError, TypeError, OverflowError, csv.Error) as error:
            raise DiagnosticError.of("E0726", f"{table} cannot be read: {error!r}") from None

    def chunks(self, size: int = 256, rows: Array | None = None) -> Iterator[Samples]:
        rows = np.arange(self.count) if rows is None else rows
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            pictures = [picture_from_bytes(self.files[i], str(self.files[i])) for i in part]
            seeds, labels = (None if a is None else a[part] for a in (self.seeds, self.labels))
            yield Samples(start, stacked(pictures, str(self.path)), seeds, labels)


def images_below(path: Path) -> list[Path]:
    """The images in a folder, at any depth, without hidden ones. DiagnosticError E0726."""
    try:
        return files_below(path, SUFFIXES)
    except ValueError as error:
        raise DiagnosticError.of("E0726", str(error)) from None


def recognises(path: Path) -> bool:
    """True for a folder that holds images, at any depth."""
    return path.is_dir() and bool(images_below(path))
