"""One .npz as ADM's evaluation takes it: `arr_0` u8[N, H, W, C] and `arr_1` i64[N]; also seeds, names and conditions.

While it is written, samples lie in a folder beside it. Source: guided-diffusion's evaluations (Dhariwal and Nichol
2021, arXiv:2105.05233).
"""

from __future__ import annotations

import io
import json
import math
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from latentc.datasets.arrays import integers
from latentc.diagnostics import DiagnosticError
from latentc.files.named import new_file
from latentc.samples.job import Job
from latentc.samples.sets import Samples, begin_folder, chosen, names_of
from latentc_runtime.npy import DAMAGE, array_from_bytes, read_header

Array = np.ndarray
SHARDED = False
PIECE = 1 << 24  # bytes copied at once
LARGEST = 1 << 28  # bytes of a sample, and of a chunk of several
TEXT = 1 << 24  # bytes of the description, and of the names of classes


class Writer:
    """Appends samples to a file of bytes, and packs it at the end."""

    def __init__(self, path: Path, about: Mapping[str, Any], job: Job, conditions: Mapping[str, Array]) -> None:
        if path.suffix != ".npz":
            raise DiagnosticError.of("E0412", f"{path} is not the name of an .npz file", help=f"write {path}.npz")
        self.path, self.about, self.job, self.conditions = path, about, job, conditions
        self.part = path.with_name(f".{path.name}.part")
        self.shape, self.dtype = tuple(about["shape"]), np.dtype(about["dtype"])
        self.one = int(np.prod(self.shape)) * self.dtype.itemsize
        self.file: BinaryIO | None = None
        if path.exists():
            self._check_same()
            self.written = job.count
            return
        begin_folder(self.part, about, {})
        self.file = (self.part / "samples").open("ab")
        self.written = min(self.file.tell() // self.one, job.count)
        self.file.truncate(self.written * self.one)

    def _check_same(self) -> None:
        reader = Reader(self.path) if self.path.is_file() and recognises(self.path) else None
        if reader is None or reader.about != self.about:
            mend = "choose another file, or remove this one"
            raise DiagnosticError.of("E0727", f"{self.path} exists and holds other samples", help=mend)

    def write(self, samples: Samples) -> None:
        assert self.file is not None
        self.file.write(np.ascontiguousarray(samples.arrays, self.dtype).data)
        self.file.flush()

    def close(self) -> None:
        if self.file is None:
            return
        self.file.close()
        arrays: dict[str, Array] = {} if self.job.labels is None else {"arr_1": self.job.labels.astype(np.int64)}
        arrays["seeds"] = self.job.seeds
        if names := names_of(self.about):
            arrays["class_names"] = np.array(names)
        arrays["about"] = np.array(json.dumps(self.about, ensure_ascii=False))
        arrays |= {f"condition.{name}": array for name, array in self.conditions.items()}
        with new_file(self.path) as whole, zipfile.ZipFile(whole, "w") as archive:
            with (self.part / "samples").open("rb") as file, _member(archive, "arr_0") as member:
                header = {"descr": np.lib.format.dtype_to_descr(self.dtype), "fortran_order": False}
                np.lib.format.write_array_header_1_0(member, {**header, "shape": (self.job.count, *self.shape)})
                shutil.copyfileobj(file, member, PIECE)
            for name, array in arrays.items():
                with _member(archive, name) as member:
                    np.lib.format.write_array(member, array, allow_pickle=False)
        shutil.rmtree(self.part)

    def abandon(self) -> None:
        if self.file is not None:
            self.file.close()


def _member(archive: zipfile.ZipFile, name: str) -> Any:
    info = zipfile.ZipInfo(f"{name}.npy")  # with a fixed time stamp, so that equal samples give equal files
    return archive.open(info, "w", force_zip64=True)


class Reader:
    """The samples of an .npz; `arr_0` is read in pieces, whether it is compressed or not."""

    format = "npz"

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with zipfile.ZipFile(path) as archive:
                with archive.open("arr_0.npy") as member:
                    header = read_header(member)
                    held = archive.getinfo("arr_0.npy").file_size - member.tell()
                if header.fortran or not header.shape or header.dtype.kind not in "biuf":
                    what = f"{header.dtype}{list(header.shape)}"
                    raise ValueError(f"`arr_0` is {what}, not one array of numbers per sample in C order")
                self.dtype, self.count, self.shape = header.dtype, header.shape[0], header.shape[1:]
                if held != header.nbytes:
                    raise ValueError(f"`arr_0` has {held} bytes instead of {header.nbytes}")
                if not 0 < (one := math.prod(self.shape) * self.dtype.itemsize) <= LARGEST:
                    raise ValueError(f"a sample of `arr_0` has {one} bytes, not 1 to {LARGEST}")
                most = {**dict.fromkeys(("arr_1", "seeds"), 8 * self.count + 512), "class_names": TEXT, "about": TEXT}
                small = {Path(n).stem for n in archive.namelist()} & most.keys()
                found = {name: _read(archive, name, most[name]) for name in small}
            self.labels = _labels(found["arr_1"], self.count) if "arr_1" in found else None
            self.seeds = found["seeds"].astype(np.uint64) if _numbers(found.get("seeds"), self.count) else None
            self.about = json.loads(str(found["about"])) if "about" in found else {}
            self.class_names = tuple(map(str, found["class_names"])) if "class_names" in found else ()
        except (*DAMAGE, KeyError) as error:
            raise DiagnosticError.of("E0726", f"{path} holds no samples: {error}") from None

    def chunks(self, size: int = 256, rows: Array | None = None) -> Iterator[Samples]:
        one = math.prod(self.shape) * self.dtype.itemsize
        size = max(1, min(size, LARGEST // one))
        try:
            with zipfile.ZipFile(self.path) as archive, archive.open("arr_0.npy") as raw:
                member = io.BufferedReader(raw)  # type: ignore[type-var]
                read_header(member)
                for start in range(0, self.count, size):
                    stop = min(start + size, self.count)
                    content = member.read((stop - start) * one)
                    if len(content) < (stop - start) * one:
                        raise ValueError("it ends too early")
                    first, own = chosen(start, stop, rows)
                    if not own.size:
                        continue
                    arrays = np.frombuffer(content, self.dtype).reshape(stop - start, *self.shape)[own]
                    seeds, labels = (None if a is None else a[start + own] for a in (self.seeds, self.labels))
                    yield Samples(first, arrays, seeds, labels)
        except DAMAGE as error:
            raise DiagnosticError.of("E0726", f"{self.path} is damaged: {error}") from None


def _read(archive: zipfile.ZipFile, name: str, most: int) -> Array:
    """An array of at most that many bytes, its header included. Raises `DAMAGE`."""
    with archive.open(f"{name}.npy") as member:
        content = member.read(most + 1)
    if len(content) > most:
        raise ValueError(f"`{name}` has more than {most} bytes")
    return array_from_bytes(content)


def _labels(array: Array, count: int) -> Array:
    """`arr_1` as i64[N]. Raises ValueError."""
    if array.shape != (count,):
        raise ValueError(f"`arr_1` is {list(array.shape)}, not one class for each of {count} samples")
    return integers(array, "`arr_1`")


def _numbers(array: Array | None, count: int) -> bool:
    return array is not None and array.shape == (count,) and array.dtype.kind in "iu"


def recognises(path: Path) -> bool:
    """True for an .npz with an array `arr_0`."""
    try:
        with zipfile.ZipFile(path) as archive:
            return "arr_0.npy" in archive.namelist()
    except (OSError, ValueError, zipfile.BadZipFile):
        return False
