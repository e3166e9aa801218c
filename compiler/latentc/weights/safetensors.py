"""The safetensors format: a strict reader that maps names to file ranges, and an atomic streaming writer.

A file is a little-endian u64 (the header's length), a JSON object, and the tensors' bytes without gaps.
Reading costs the header; no tensor is touched. Format: the safetensors README, "Format".
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from latentc.diagnostics import Diagnostic, DiagnosticError
from latentc.weights.expr import DTYPES, Expr, Stored, dtype_name
from latentc.weights.read import stream

NAMES = {
    "BOOL": "bool",
    "U8": "u8",
    "I8": "i8",
    "U16": "u16",
    "I16": "i16",
    "U32": "u32",
    "I32": "i32",
    "U64": "u64",
    "I64": "i64",
    "F16": "f16",
    "BF16": "bf16",
    "F32": "f32",
    "F64": "f64",
    "F8_E4M3": "f8e4m3",
    "F8_E5M2": "f8e5m2",
    "F8_E8M0": "f8e8m0",
    "C64": "c64",
}
"""The format's dtype names to latentc's."""

HEADER_LIMIT = 100_000_000  # bytes; the limit of the format's own implementation
ALIGNMENT = 64  # bytes; where the tensors' data begins, so that a mapped float is an aligned one


def read_safetensors(path: Path | str) -> dict[str, Stored]:
    """Every tensor of a safetensors file as a file range, in the order of the data.

    Raises DiagnosticError: E0401, E0402 (no such file, unreadable), E0404 (damaged), E0405 (unknown dtype).
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start, header = _header(path, file, size)
    except OSError as error:
        raise unreadable(path, error) from error
    header.pop("__metadata__", None)
    tensors = {name: _entry(path, name, entry, start, size) for name, entry in header.items()}
    return _without_gaps(path, tensors, start, size)


def write_safetensors(
    path: Path | str, tensors: Mapping[str, Expr], metadata: Mapping[str, str] | None = None
) -> dict[str, tuple[int, int]]:
    """Write a safetensors file tensor by tensor; returns {name: (offset, nbytes)}, offsets from the file's start.

    The file appears under its name only when it is whole and on disk. The data begins at a multiple of 64
    bytes and every tensor at a multiple of its element size. Raises DiagnosticError E0412 (cannot write, disk
    full), E0405 (a dtype that the format lacks), and what reading the expressions raises; nothing is left
    behind then.
    """
    path = Path(path)
    # The format allows no gaps, so wider elements come first: each tensor is then aligned to its elements.
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
            # Reads raise DiagnosticErrors of their own, so an OSError here is the output's.
            if stream(tensors[name], file) != spans[name][1]:
                raise ValueError(f"{name}: streamed another number of bytes than its shape has")
    return {name: (len(header) + offset, nbytes) for name, (offset, nbytes) in spans.items()}


def safetensors_from_arrays(arrays: Mapping[str, np.ndarray[Any, Any]]) -> bytes:
    """A few small arrays as the content of a safetensors file."""
    kinds = {np.dtype(DTYPES[ours]): theirs for theirs, ours in NAMES.items()}
    header: dict[str, Any] = {}
    data = b""
    for name, array in sorted(arrays.items(), key=lambda item: -item[1].dtype.itemsize):
        offsets = [len(data), len(data) + array.nbytes]
        header[name] = {"dtype": kinds[array.dtype], "shape": list(array.shape), "data_offsets": offsets}
        data += np.ascontiguousarray(array).tobytes()
    return _header_text(header) + data


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A new file that replaces `path` if the block succeeds and is deleted if it fails.

    Raises DiagnosticError E0412 if the system refuses (disk full, no permission).
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    try:
        if path.exists() and not path.is_file():  # a folder, or a device that the rename would put a file in place of
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
        raise DiagnosticError(
            Diagnostic(
                "E0412",
                f"cannot write {path}: {error.strerror or error}",
                help="nothing was left behind; free some space or choose another place, then run again",
            )
        ) from error


def unreadable(path: Path, error: OSError) -> DiagnosticError:
    """The diagnostic for a file that cannot be opened."""
    if isinstance(error, FileNotFoundError):
        return DiagnosticError(Diagnostic("E0401", f"no such weights file: {path}"))
    return DiagnosticError(Diagnostic("E0402", f"cannot read {path}: {error.strerror or error}"))


def _header(path: Path, file: BinaryIO, size: int) -> tuple[int, dict[str, Any]]:
    """(first byte of the data, the parsed header)."""
    length = int.from_bytes(file.read(8), "little")
    if size < 8:
        raise _damaged(path, f"it has {size} bytes, too few for a header")
    if length > HEADER_LIMIT:
        raise _damaged(path, f"its header would have {length} bytes, more than the format allows")
    if 8 + length > size:
        raise _damaged(path, f"its header has {length} bytes but only {size - 8} follow")
    try:
        header = json.loads(file.read(length).decode("utf-8"), object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"its header is not valid JSON ({_brief(error)})") from error
    if not isinstance(header, dict):
        raise _damaged(path, "its header is not a JSON object")
    if not isinstance(header.get("__metadata__", {}), dict):
        raise _damaged(path, "its __metadata__ is not a JSON object")
    return 8 + length, header


def _entry(path: Path, name: str, entry: Any, start: int, size: int) -> Stored:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise _damaged(path, f"the entry of {name!r} must have dtype, shape and data_offsets")
    kind, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not _naturals(shape) or not _naturals(offsets) or len(offsets) != 2 or not isinstance(kind, str):
        raise _damaged(path, f"the entry of {name!r} is malformed")
    if kind not in NAMES:
        raise DiagnosticError(
            Diagnostic(
                "E0405",
                f"{path}: tensor {name!r} has dtype {kind!r}, which latentc does not read",
                help=f"known dtypes: {', '.join(NAMES)}",
            )
        )
    dtype, (low, high) = DTYPES[NAMES[kind]], offsets
    if low > high or start + high > size:
        raise _damaged(path, f"{name!r} lies at bytes {low} to {high}, but {size - start} bytes of data are there")
    if math.prod(shape) * dtype.itemsize != high - low:
        raise _damaged(path, f"{name!r} is {kind} {shape}, which is not {high - low} bytes")
    return Stored(path, start + low, high - low, dtype, tuple(shape))


def _without_gaps(path: Path, tensors: dict[str, Stored], start: int, size: int) -> dict[str, Stored]:
    ordered = dict(sorted(tensors.items(), key=lambda item: (item[1].offset, item[1].nbytes)))
    position = start
    for name, tensor in ordered.items():
        if tensor.offset != position:
            what = "overlaps the tensor before it" if tensor.offset < position else "leaves a gap before it"
            raise _damaged(path, f"{name!r} {what}")
        position = tensor.offset + tensor.nbytes
    if position != size:
        raise _damaged(path, f"{size - position} bytes after the last tensor belong to none")
    return ordered


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
            raise DiagnosticError(
                Diagnostic("E0405", f"{path}: safetensors cannot hold {name!r} ({dtype_name(expr.dtype)})")
            )
        low, nbytes = spans[name]
        shape = [int(n) for n in expr.shape]
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [low, low + nbytes]}
    return _header_text(header)


def _header_text(header: Mapping[str, Any]) -> bytes:
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)  # the format allows trailing spaces
    return len(text).to_bytes(8, "little") + text


def _naturals(value: Any) -> bool:
    return isinstance(value, list) and all(type(n) is int and 0 <= n < 1 << 62 for n in value)


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name occurs twice")
    return found


def _brief(error: Exception) -> str:
    return str(error).splitlines()[0][:120] if str(error) else type(error).__name__


def _sync_folder(folder: Path) -> None:
    """Flush the rename itself to disk, if the system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _damaged(path: Path, why: str) -> DiagnosticError:
    return DiagnosticError(
        Diagnostic(
            "E0404",
            f"{path} is not a whole safetensors file: {why}",
            help="the file is truncated or damaged: fetch or write it again",
        )
    )
