"""Sets of samples in files: written as a stream that can be continued, and read chunk by chunk.

Symbols: N samples of the set, n samples of a chunk.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from latentc.diagnostics import DiagnosticError
from latentc.files.named import write_arrays, write_text
from latentc.samples.job import Executor, Job, about_job, given_arrays, in_process, ordered
from latentc_runtime.bundle import MANIFEST, located, open_bundle
from latentc_runtime.pipeline import indexes_of
from latentc_runtime.request import program_entry

Array = np.ndarray
Format = Literal["folder", "npz", "webdataset", "parquet"]
FORMATS: tuple[Format, ...] = ("folder", "npz", "webdataset", "parquet")
ABOUT, CONDITIONS = "samples.json", "conditions.npz"  # files next to the samples of a folder
SHARD = 1000  # samples per WebDataset or parquet file
LARGEST = 1 << 26  # bytes per chunk


@dataclass(frozen=True)
class Samples:
    """Consecutive samples, the first of number `start`.

    `arrays`: pictures u8[n, H, W, C], or samples as the program gave them. `seeds` u64[n] and `labels` i64[n] if known.
    """

    start: int
    arrays: Array
    seeds: Array | None = None
    labels: Array | None = None


class SampleSet(Protocol):
    """A set of samples in files; opening its path raises DiagnosticError E0706, E0726.

    `about`: what was asked for; empty if latentc did not write it. `labels`: the class of every sample i64[N] or None;
    the first use may read all files.
    """

    path: Path
    format: Format
    count: int
    class_names: tuple[str, ...]
    about: dict[str, Any]

    @property
    def labels(self) -> Array | None: ...

    def chunks(self, size: int = 256, rows: Array | None = None) -> Iterator[Samples]:
        """The samples of the given rows, ascending (default: all), at most `size` at once, numbered from 0.

        DiagnosticError E0726 for what is damaged.
        """
        ...


class Writer(Protocol):
    """Writes a set in order, a new one or the rest of an interrupted one.

    Its constructor takes (path, about, job, conditions), and raises DiagnosticError E0412, E0706, E0727. `written`:
    number of samples that were there already.
    """

    written: int

    def write(self, samples: Samples) -> None: ...

    def close(self) -> None:
        """Called once after the last sample."""
        ...

    def abandon(self) -> None:
        """Called instead of `close` on an interruption."""
        ...


def write(
    job: Job,
    path: Path,
    format: Format = "folder",
    *,
    executor: Executor = in_process,
    chunk: int | None = None,
    shard: int = SHARD,
    progress: Callable[[int, int], None] | None = None,
) -> SampleSet:
    """Draws the samples of a job and writes them to `path`, a folder or for "npz" a file; returns the set.

    It holds a few chunks in memory. What an interrupted run wrote is kept, and a complete set is left untouched.
    `chunk`: samples drawn at once, `shard`: samples per file of the formats that have several per file. Raises
    DiagnosticError E0412 and E0727 (`path` holds something else), BundleError.
    """
    module = importlib.import_module(f"latentc.samples.{format}")
    bundle = open_bundle(job.bundle)
    manifest = located(bundle)
    entry = program_entry(manifest, job.program, job.steps)
    indexes = indexes_of(bundle, job.index)
    first = range(min(1, job.count))
    job.request(manifest, entry, first, indexes)  # mistakes are reported before anything is written
    about = {"format": format, **about_job(job, manifest, entry), "shard": shard if module.SHARDED else None}
    conditions = given_arrays(job.given)
    writer: Writer = module.Writer(path, about, job, conditions)
    size = chunk or job.batch or min(entry.max_batch or 64, max(1, LARGEST // _bytes(about)))
    chunks = job.chunks(size, writer.written)
    done = writer.written
    if progress is not None:
        progress(done, job.count)
    try:
        for rows, arrays in ordered(executor(job, chunks) if chunks else (), writer.written):
            labels = None if job.labels is None else job.labels[rows.start : rows.stop]
            writer.write(Samples(rows.start, arrays, job.seeds[rows.start : rows.stop], labels))
            done = rows.stop
            if progress is not None:
                progress(done, job.count)
    except BaseException:
        writer.abandon()
        raise
    writer.close()
    return open_set(path)


def _bytes(about: Mapping[str, Any]) -> int:
    return max(1, int(np.prod(about["shape"])) * np.dtype(about["dtype"]).itemsize)


def begin_folder(path: Path, about: Mapping[str, Any], conditions: Mapping[str, Array]) -> None:
    """Creates the folder of a set with its description, or checks that it holds a part of the same. E0412, E0727."""
    mend = "choose another folder, or remove this one"
    if (path / ABOUT).is_file():
        if read_about(path) != about:
            message = f"{path} holds samples of a different request: {_difference(read_about(path), about)}"
            raise DiagnosticError.of("E0727", message, help=mend)
        return
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        what = "holds a bundle" if (path / MANIFEST).exists() else "holds other files" if path.is_dir() else "is a file"
        raise DiagnosticError.of("E0727", f"{path} {what}", help=mend)
    if conditions:
        write_arrays(path / CONDITIONS, conditions)
    write_text(path / ABOUT, json.dumps(about, indent=1, ensure_ascii=False) + "\n")


def read_about(path: Path) -> dict[str, Any]:
    """The description beside the samples of a folder; empty if there is none. DiagnosticError E0726."""
    file = path / ABOUT
    if not file.is_file():
        return {}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(found, dict) or not isinstance(found.get("count"), int):
            raise ValueError("it is not the description of a sample set")
    except (ValueError, RecursionError) as error:
        raise DiagnosticError.of("E0726", f"{file} cannot be read: {error}") from None
    return found


def _difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    key = next((key for key in new if old.get(key) != new[key]), next(iter(new)))
    return f"`{key}` was {str(old.get(key))[:60]} and is {str(new[key])[:60]}"


def chosen(start: int, stop: int, rows: Array | None) -> tuple[int, Array]:
    """Those of the samples `start` to `stop` - 1 that `rows` asks for: the number of the first, and which they are.

    They are numbered among all that are asked for, and given as offsets from `start`, i64[n].
    """
    if rows is None:
        return start, np.arange(stop - start)
    first, end = np.searchsorted(rows, [start, stop])
    return int(first), rows[first:end] - start


def names_of(about: Mapping[str, Any]) -> tuple[str, ...]:
    """The class names in a description."""
    return tuple(about.get("class_names") or ())


def open_set(path: Path | str) -> SampleSet:
    """The samples at `path`: a set that `write` wrote, a folder of images, an .npz with `arr_0`, WebDataset or parquet.

    Raises DiagnosticError: E0401 if nothing is there, E0726 if it is no set of samples, E0706.
    """
    path = Path(path)
    if not path.exists():
        raise DiagnosticError.of("E0401", f"no such file or folder: {path}")
    format = read_about(path).get("format") if path.is_dir() else None
    for name in FORMATS:
        module = importlib.import_module(f"latentc.samples.{name}")
        if format == name or (format is None and module.recognises(path)):
            found: SampleSet = module.Reader(path)
            return found
    mend = "give a folder of images, an .npz with `arr_0`, or a folder of .tar or .parquet files"
    raise DiagnosticError.of("E0726", f"{path} holds no samples", help=mend)
