"""NumPy's .npy format from untrusted bytes: the header is bounded and checked before memory is allocated for it.

NumPy's own reader raises whatever its parser does (`tokenize.TokenError`, `MemoryError`), and allocates the array that
the header declares before it reads a value.
"""

from __future__ import annotations

import io
import math
import tokenize
import zipfile
import zlib
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

LONGEST = 10_000  # bytes of a header, as in NumPy

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
"""Exceptions of the standard library's and NumPy's readers on damaged archives and arrays."""


@dataclass(frozen=True)
class Header:
    """The header of an .npy file. `fortran`: the first axis varies fastest."""

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]

    @property
    def nbytes(self) -> int:
        """Bytes of the values that follow the header."""
        return math.prod(self.shape) * self.dtype.itemsize


def read_header(stream: IO[bytes]) -> Header:
    """The header at the start of a stream, which is then at the first value. Raises ValueError."""
    major, _ = npy.read_magic(stream)
    start = stream.read(2 if major == 1 else 4)
    if (length := int.from_bytes(start, "little")) > LONGEST:
        raise ValueError(f"its header has {length} bytes; at most {LONGEST} are allowed")
    text = io.BytesIO(start + stream.read(length))
    try:
        shape, fortran, dtype = (npy.read_array_header_1_0 if major == 1 else npy.read_array_header_2_0)(text)
    except Exception as error:  # whatever Python's tokenizer and parser raise
        reason = str(error).splitlines()[0][:120] if isinstance(error, ValueError) else type(error).__name__
        raise ValueError(f"its header cannot be read: {reason}") from None
    boundless = dtype.itemsize == 0 and math.prod(shape) > 0  # no file is too small for it
    if boundless or any(isinstance(size, bool) or size < 0 for size in shape):
        raise ValueError(f"its header declares an array {list(shape)} of {dtype}")
    return Header(tuple(shape), bool(fortran), dtype)


def array_from_bytes(content: bytes) -> NDArray[Any]:
    """The array of an .npy file, read-only. Raises ValueError, also for an array of objects or of another size."""
    stream = io.BytesIO(content)
    header = read_header(stream)
    held = len(content) - stream.tell()
    if header.dtype.hasobject:
        raise ValueError("it holds Python objects, which are not read")
    if held != header.nbytes:
        raise ValueError(f"it holds {held} bytes of an array {list(header.shape)} of {header.dtype}")
    flat = np.frombuffer(content, header.dtype, offset=stream.tell()) if held else np.empty(0, header.dtype)
    return flat.reshape(header.shape, order="F" if header.fortran else "C")
