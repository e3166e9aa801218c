"""NumPy's .npz archives: uncompressed entries become file ranges, compressed ones are unpacked when they are read.

Opening an archive reads only headers, so shapes are compared with what they are for before anything is unpacked.
"""

from __future__ import annotations

import errno
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from latentc.diagnostics import DiagnosticError
from latentc.weights.expr import DTYPES, Computed, Expr, Stored, transpose
from latentc.weights.safetensors import unreadable
from latentc_runtime.npy import DAMAGE, Header, read_header

_PIECE = 1 << 22  # bytes unpacked at once


def read_npz(path: Path | str) -> dict[str, Expr]:
    """The arrays of an .npz under their names; nothing is ever unpickled.

    Raises DiagnosticError: E0401, E0402 (no such file, unreadable), E0405 (object or other unsupported
    arrays), E0408 (damaged).
    """
    path = Path(path)
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            return {
                info.filename.removesuffix(".npy"): _entry(path, file, archive, info)
                for info in archive.infolist()
                if info.filename.endswith(".npy")
            }
    except DAMAGE as error:
        raise unread(path, error) from error


def data_range(path: Path, file: BinaryIO, info: zipfile.ZipInfo) -> tuple[int, int] | None:
    """(offset, nbytes) of an entry's data in the file, or None if it is compressed or encrypted.

    Raises DiagnosticError E0408 if the archive's directory and the entry disagree.
    """
    if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 0x1:
        return None
    file.seek(info.header_offset)
    local = file.read(30)
    if len(local) != 30 or local[:4] != b"PK\x03\x04" or info.compress_size != info.file_size:
        raise damaged(path, f"the entry {info.filename!r} has no valid header")
    # The local extra field may be longer than the directory's: torch pads it to align the data.
    offset = info.header_offset + 30 + int.from_bytes(local[26:28], "little") + int.from_bytes(local[28:30], "little")
    if offset + info.file_size > file.seek(0, 2):
        raise damaged(path, f"the entry {info.filename!r} ends beyond the end of the file")
    return offset, info.file_size


def unread(path: Path, error: Exception) -> DiagnosticError:
    """The diagnostic for `error`, one of `DAMAGE`, raised while reading an archive."""
    # A damaged directory makes the reader seek to invalid offsets (EINVAL); other OSErrors come from the system.
    if isinstance(error, OSError) and error.errno != errno.EINVAL:
        return unreadable(path, error)
    return damaged(path, str(error) or type(error).__name__)


def damaged(path: Path, why: str) -> DiagnosticError:
    """The diagnostic for a broken archive."""
    return DiagnosticError.of(
        "E0408", f"{path} is damaged: {why}", help="the file is truncated or was altered: fetch or write it again"
    )


def _entry(path: Path, file: BinaryIO, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Expr:
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise damaged(path, f"the entry {info.filename!r} is compressed in a way that NumPy never uses")
    with archive.open(info) as entry:
        header = read_header(entry)
        start = entry.tell()
    shape, dtype, nbytes = header.shape, header.dtype, header.nbytes
    if dtype.newbyteorder("=") not in DTYPES.values():
        raise DiagnosticError.of(
            "E0405",
            f"{path}: array {info.filename.removesuffix('.npy')!r} has dtype {dtype}, not a number type",
            help="save plain numeric arrays; use safetensors for bfloat16, which .npz has no name for",
        )
    if start + nbytes != info.file_size:
        raise damaged(path, f"{info.filename!r} should have {start + nbytes} bytes, but has {info.file_size}")
    place = data_range(path, file, info)
    if place is None or dtype.newbyteorder("<") != dtype:
        return Computed((), _Unpacking(path, info.filename, header), dtype.newbyteorder("="), shape)
    offset = place[0] + start
    if not header.fortran:
        return Stored(path, offset, nbytes, dtype, shape)
    return transpose(Stored(path, offset, nbytes, dtype, shape[::-1]), range(len(shape))[::-1])


@dataclass(frozen=True)
class _Unpacking:
    """Unpacks an entry of an archive in pieces: its memory is that of the array, which its header declares."""

    path: Path
    name: str
    header: Header

    def __call__(self, parts: list[np.ndarray]) -> np.ndarray:
        try:
            with zipfile.ZipFile(self.path) as archive, archive.open(self.name) as entry:
                if read_header(entry) != self.header:
                    raise ValueError(f"{self.name!r} was changed after it was opened")
                return self._array(entry)
        except MemoryError:
            raise
        except DAMAGE as error:
            raise unread(self.path, error) from error

    def _array(self, entry: Any) -> np.ndarray:
        shape = self.header.shape[::-1] if self.header.fortran else self.header.shape
        array = np.empty(shape, self.header.dtype)
        left = array.reshape(-1).view(np.uint8).data
        while left:
            piece = entry.read(min(len(left), _PIECE))
            if not piece:
                raise ValueError(f"{self.name!r} ends {len(left)} bytes too early")
            left[: len(piece)] = piece
            left = left[len(piece) :]
        if entry.read(1):  # which also compares the checksum
            raise ValueError(f"{self.name!r} is longer than its header says")
        if not array.dtype.isnative:
            array = array.byteswap(inplace=True).view(array.dtype.newbyteorder("="))
        return array.transpose() if self.header.fortran else array
