"""The safetensors format: a reader that maps names to file ranges, and an atomic streaming writer.

A file is a little-endian u64 (the header's length), a JSON object, and the tensors' bytes without gaps. The safetensors
package checks a file and gives its tensors as arrays, but neither their place in it nor a way to write one at a time.
Format: the safetensors README, "Format".
"""

from __future__ import annotations

import contextlib
import errno
import glob
import json
import math
import os
import re
import secrets
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import safetensors

from latentc.diagnostics import DiagnosticError, mend_of_writing
from latentc.weights.checksums import remember
from latentc.weights.expr import DTYPES, Expr, Stored, dtype_name
from latentc.weights.nibbles import FOUR_BITS
from latentc.weights.read import stream

NAMES = {name.upper().replace("F8E", "F8_E"): name for name in DTYPES if name not in FOUR_BITS}
"""The format's dtype names to latentc's."""

ALIGNMENT = 64  # bytes; the data begins at a multiple of it, so that mapped numbers are aligned


def read_safetensors(path: Path | str) -> dict[str, Stored]:
    """Every tensor of a safetensors file as a file range, in the order of the data.

    Raises DiagnosticError: E0401, E0402 (no such file, unreadable), E0404 (damaged), E0405 (unknown dtype).
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            with safetensors.safe_open(path, "numpy"):  # checks header, sizes and offsets
                pass
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
    except OSError as error:
        raise unreadable(path, error) from error
    except safetensors.SafetensorError as error:
        if unknown := re.search(r"unknown variant `([^`]*)`", str(error)):
            raise _unknown_dtype(path, unknown[1]) from error
        raise _damaged(path, str(error).removeprefix("Error while deserializing header: ")) from error
    metadata = header.pop("__metadata__", None) or {}
    found = {}
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        if entry["dtype"] not in NAMES:
            raise _unknown_dtype(path, entry["dtype"])
        low, high = entry["data_offsets"]
        found[name] = Stored(path, 8 + length + low, high - low, DTYPES[NAMES[entry["dtype"]]], tuple(entry["shape"]))
    remember(path, found, metadata)
    return found


def write_safetensors(
    path: Path | str, tensors: Mapping[str, Expr], metadata: Mapping[str, str] | None = None
) -> dict[str, tuple[int, int]]:
    """Write a safetensors file tensor by tensor; returns {name: (offset, nbytes)}, offsets from the file's start.

    The file is never visible half-written. The data begins at a multiple of 64 bytes and each tensor at a multiple of
    its element size. Raises DiagnosticError E0412 (cannot write, disk full), E0405 (a dtype that the format lacks), and
    the errors of reading the expressions; nothing is left behind then.
    """
    path = Path(path)
    # The format allows no gaps. With wider elements first, each tensor is aligned to its element size.
    order = sorted(tensors, key=lambda name: -tensors[name].dtype.itemsize)
    spans: dict[str, tuple[int, int]] = {}
    position = 0
    for name in order:
        nbytes = math.prod(tensors[name].shape) * tensors[name].dtype.itemsize
        spans[name] = (position, nbytes)
        position += nbytes
    header = _header_bytes(path, {name: tensors[name] for name in order}, spans, metadata)
    with replacing(path) as file:
        file.write(header)
        for name in order:
            # Reading raises its own DiagnosticErrors, so an OSError here concerns the output.
            if stream(tensors[name], file) != spans[name][1]:
                raise ValueError(f"{name}: the number of bytes streamed does not match its shape")
    return {name: (len(header) + offset, nbytes) for name, (offset, nbytes) in spans.items()}


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A new file that replaces `path` if the block succeeds and is deleted if it fails.

    Raises DiagnosticError E0412 if the system refuses (disk full, no permission).
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    _sweep(path)
    try:
        if path.exists() and not path.is_file():  # a folder, or a device that the rename would replace by a file
            raise OSError(errno.EEXIST, "it exists and is not a regular file")
        try:
            with temporary.open("xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            _sync_folder(path.parent)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise DiagnosticError.of(
            "E0412",
            f"cannot write {path}: {error.strerror or error}",
            help=f"nothing was left behind; {mend_of_writing(error)}",
        ) from error


_ABANDONED = 3600.0  # seconds after which a temporary file that has not grown belongs to a killed process


def _sweep(path: Path) -> None:
    """Removes the temporary files of killed processes beside `path`."""
    with contextlib.suppress(OSError):
        for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
            if time.time() - left.stat().st_mtime > _ABANDONED:
                left.unlink()


def unreadable(path: Path, error: OSError) -> DiagnosticError:
    """The diagnostic for a file that cannot be opened."""
    if isinstance(error, FileNotFoundError):
        return DiagnosticError.of("E0401", f"no such weights file: {path}")
    return DiagnosticError.of("E0402", f"cannot read {path}: {error.strerror or error}")


def _header_bytes(
    path: Path,
    tensors: Mapping[str, Expr],
    spans: Mapping[str, tuple[int, int]],
    metadata: Mapping[str, str] | None,
) -> bytes:
    names = {ours: theirs for theirs, ours in NAMES.items()}
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    for name, expr in tensors.items():
        kind = names.get(dtype_name(expr.dtype))
        if kind is None or name == "__metadata__":
            raise DiagnosticError.of("E0405", f"{path}: safetensors cannot hold {name!r} ({dtype_name(expr.dtype)})")
        low, nbytes = spans[name]
        shape = [int(n) for n in expr.shape]
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [low, low + nbytes]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)  # the format allows trailing spaces
    return len(text).to_bytes(8, "little") + text


def _unknown_dtype(path: Path, dtype: str) -> DiagnosticError:
    message = f"{path} holds a tensor of dtype {dtype}, which latentc does not read"
    return DiagnosticError.of("E0405", message, help=f"known dtypes: {', '.join(NAMES)}")


def _sync_folder(folder: Path) -> None:
    """Flush the rename itself to disk, if the system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _damaged(path: Path, why: str) -> DiagnosticError:
    return DiagnosticError.of(
        "E0404",
        f"{path} is not a complete safetensors file: {why}",
        help="the file is truncated or damaged: fetch or write it again",
    )
