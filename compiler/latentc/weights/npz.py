"""NumPy's .npz archives: uncompressed entries become file ranges, others are read into memory."""

from __future__ import annotations

import errno
import math
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np
from numpy.lib import format as npy

from latentc.diagnostics import DiagnosticError
from latentc.weights.expr import DTYPES, Array, Expr, Stored, transpose
from latentc.weights.safetensors import unreadable


def read_npz(path: Path | str) -> dict[str, Expr]:
    """The arrays of an .npz under their names; nothing is ever unpickled.

    Raises DiagnosticError: E0401, E0402 (no such file, unreadable), E0405 (object or other unsupported
    arrays), E0408 (damaged).
    """
    path = Path(path)
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            refuse_bombs(path, archive)
            return {
                info.filename.removesuffix(".npy"): _entry(path, file, archive, info)
                for info in archive.infolist()
                if info.filename.endswith(".npy")
            }
    except DAMAGE as error:
        raise unread(path, error) from error


DAMAGE = (
    OSError,
    zipfile.BadZipFile,
    ValueError,
    EOFError,
    RuntimeError,
    NotImplementedError,
    OverflowError,
    MemoryError,
    KeyError,
    TypeError,
    SyntaxError,
    tokenize.TokenError,
    zlib.error,
)
"""What the standard library's and NumPy's readers raise on damaged archives."""


_MOST_GROWTH, _ALWAYS_ALLOWED = 200, 1 << 28  # times; bytes


def refuse_bombs(path: Path, archive: zipfile.ZipFile) -> None:
    """DiagnosticError E0408 if an entry would grow beyond any array of numbers when it is unpacked.

    zipfile unpacks no more than the size that an entry declares.
    """
    for info in archive.infolist():
        if info.file_size > _MOST_GROWTH * info.compress_size + _ALWAYS_ALLOWED:
            grows = f"{info.compress_size} bytes would become {info.file_size}"
            raise damaged(path, f"the entry {info.filename!r} is packed too tightly: {grows}")


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
    with archive.open(info) as entry:
        shape, fortran, dtype = npy_header(entry)
        header = entry.tell()
    if dtype.newbyteorder("=") not in DTYPES.values():
        raise DiagnosticError.of(
            "E0405",
            f"{path}: array {info.filename.removesuffix('.npy')!r} has dtype {dtype}, not a number type",
            help="save plain numeric arrays; use safetensors for bfloat16, which .npz has no name for",
        )
    nbytes = math.prod(shape) * dtype.itemsize
    if header + nbytes != info.file_size or min(shape, default=0) < 0:
        raise damaged(path, f"{info.filename!r} should have {header + nbytes} bytes, but has {info.file_size}")
    place = data_range(path, file, info)
    if place is None or dtype.newbyteorder("<") != dtype:
        return Array(_loaded(archive, info, dtype))
    offset = place[0] + header
    if not fortran:
        return Stored(path, offset, nbytes, dtype, shape)
    return transpose(Stored(path, offset, nbytes, dtype, shape[::-1]), range(len(shape))[::-1])


def npy_header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """(shape, whether in Fortran's order, dtype) of an .npy file; leaves the stream at its data. Raises `DAMAGE`."""
    version = npy.read_magic(stream)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran, dtype = read(stream)
    return shape, fortran, dtype


def _loaded(archive: zipfile.ZipFile, info: zipfile.ZipInfo, dtype: np.dtype[Any]) -> np.ndarray:
    with archive.open(info) as entry:
        array = npy.read_array(entry, allow_pickle=False)
    return array.astype(dtype.newbyteorder("="))
