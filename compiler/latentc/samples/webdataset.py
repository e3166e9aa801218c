"""WebDataset: .tar files in which the files of a sample have one name: 00000012.png, .cls and .json with the seed.

Source: https://github.com/webdataset/webdataset (the format).
"""

from __future__ import annotations

import functools
import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from latentc.datasets.arrays import integer
from latentc.datasets.image_files import SUFFIXES
from latentc.datasets.webdataset import check_end, tar_files
from latentc.diagnostics import DiagnosticError
from latentc.samples.pictures import picture_from_bytes, png_from_picture, stacked
from latentc.samples.sets import Samples, names_of, read_about
from latentc.samples.shards import ShardWriter
from latentc_runtime.class_names import title
from latentc_runtime.npy import array_from_bytes

Array = np.ndarray
SHARDED = True
PICTURES = tuple(sorted(suffix[1:] for suffix in SUFFIXES))
LARGEST = 1 << 28  # bytes of one member, and of the samples of a chunk after which it ends early
USED = (*PICTURES, "npy", "cls", "json")
DAMAGE = (tarfile.TarError, OSError, EOFError, ValueError, KeyError, OverflowError)


class Writer(ShardWriter):
    """Images as PNG, other samples as .npy."""

    SUFFIX = ".tar"

    def open(self, path: Path) -> None:
        self.tar = tarfile.open(path, "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115 (closed by `finish`)

    def add(self, samples: Samples) -> None:
        for i, array in enumerate(samples.arrays):
            key = f"{samples.start + i:08d}"
            about: dict[str, Any] = {"index": samples.start + i}
            if samples.seeds is not None:
                about["seed"] = int(samples.seeds[i])
            if samples.labels is not None:
                about |= {"class": (number := int(samples.labels[i])), "name": title(self.names, number)}
                self._member(f"{key}.cls", str(number).encode())
            self._member(f"{key}.json", json.dumps(about, ensure_ascii=False).encode())
            if self.medium == "image":
                self._member(f"{key}.png", png_from_picture(array))
            else:
                file = io.BytesIO()
                np.save(file, array, allow_pickle=False)
                self._member(f"{key}.npy", file.getvalue())

    def _member(self, name: str, content: bytes) -> None:
        info = tarfile.TarInfo(name)  # with a fixed time stamp and owner, so that equal samples give equal files
        info.size = len(content)
        self.tar.addfile(info, io.BytesIO(content))

    def finish(self) -> None:
        self.tar.close()


class Reader:
    """The samples of one .tar or of all in a folder, in sorted order."""

    format = "webdataset"

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files = tar_files(path)
        self.about = read_about(path) if path.is_dir() else {}
        self.class_names = names_of(self.about)
        self.count = self.about.get("count", -1)
        if self.count < 0:
            self.count = sum(1 for file in self.files for _ in _samples(file, heads=True))

    @functools.cached_property
    def labels(self) -> Array | None:
        """Read from the files, if all samples have one."""
        parts = [(parts, str(file)) for file in self.files for parts in _samples(file, heads=True)]
        found = [_label(own, _about(own, name), name) for own, name in parts]
        return None if None in found else np.array(found, np.int64)

    def chunks(self, size: int = 256, rows: Array | None = None) -> Iterator[Samples]:
        held: list[dict[str, bytes]] = []
        start, count, room = 0, 0, LARGEST
        wanted = None if rows is None else set(rows.tolist())
        for file in self.files:
            for parts in _samples(file):
                if wanted is None or count in wanted:
                    held.append(parts)
                    room -= sum(map(len, parts.values()))
                count += 1
                if held and (len(held) == size or room < 0):
                    yield _chunk(start, held, str(file))
                    start, held, room = start + len(held), [], LARGEST
        if held:
            yield _chunk(start, held, str(self.path))
        if count != self.count:
            raise DiagnosticError.of("E0726", f"{self.path} holds {count} samples instead of {self.count}")


def _samples(file: Path, heads: bool = False) -> Iterator[dict[str, bytes]]:
    """{suffix: content} of each sample that holds a picture or an array; with `heads` without content but labels."""
    key, parts = "", dict[str, bytes]()
    try:
        with tarfile.open(file, "r|*") as tar:
            for member in tar:
                if not member.isfile():
                    continue
                folder, _, name = member.name.rpartition("/")
                base, _, suffix = name.partition(".")
                if f"{folder}/{base}" != key and parts:
                    if {*parts} & {*PICTURES, "npy"}:
                        yield parts
                    parts = {}
                key = f"{folder}/{base}"
                if member.size > LARGEST:
                    raise ValueError(f"{member.name} has {member.size} bytes")
                used = suffix.lower() in (("cls", "json") if heads else USED)
                parts[suffix.lower()] = tar.extractfile(member).read() if used else b""  # type: ignore[union-attr]
        with file.open("rb") as raw:
            if raw.read(2) not in (b"\x1f\x8b", b"BZ", b"\xfd7"):  # compressed ones have checksums
                check_end(raw, tar.offset)
    except DAMAGE as error:
        raise DiagnosticError.of("E0726", f"{file} cannot be read as WebDataset: {error}") from None
    if {*parts} & {*PICTURES, "npy"}:
        yield parts


def _chunk(start: int, held: list[dict[str, bytes]], name: str) -> Samples:
    try:
        arrays = stacked([_array(parts, name) for parts in held], name)
        about = [_about(parts, name) for parts in held]
        labels = [_label(parts, own, name) for parts, own in zip(held, about, strict=True)]
        seeds = [own["seed"] for own in about] if all("seed" in own for own in about) else None
        return Samples(
            start,
            arrays,
            None if seeds is None else np.array(seeds, np.uint64),
            None if None in labels else np.array(labels, np.int64),
        )
    except DAMAGE as error:
        raise DiagnosticError.of("E0726", f"{name} cannot be read as WebDataset: {error}") from None


def _about(parts: dict[str, bytes], name: str) -> dict[str, Any]:
    """The .json of a sample; empty if it has none. DiagnosticError E0726."""
    try:
        about = json.loads(parts.get("json", b"{}"))
    except (ValueError, RecursionError) as error:
        raise DiagnosticError.of("E0726", f"a .json in {name} cannot be read: {error}") from None
    return about if isinstance(about, dict) else {}


def _label(parts: dict[str, bytes], about: dict[str, Any], name: str) -> int | None:
    """The class of a sample, None if it has none. DiagnosticError E0726."""
    if "cls" not in parts and "class" not in about:
        return None
    try:
        return integer(parts["cls"], "a .cls") if "cls" in parts else integer(about["class"], "`class` of a .json")
    except ValueError as error:
        raise DiagnosticError.of("E0726", f"{name}: {error}") from None


def _array(parts: dict[str, bytes], name: str) -> Array:
    suffix = next(suffix for suffix in (*PICTURES, "npy") if suffix in parts)
    if suffix == "npy":
        return array_from_bytes(parts["npy"])
    return picture_from_bytes(parts[suffix], name)


def recognises(path: Path) -> bool:
    """True for a .tar file and for a folder with some."""
    return path.suffix == ".tar" if path.is_file() else bool(tar_files(path))
