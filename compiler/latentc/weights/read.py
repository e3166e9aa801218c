"""Weight expressions to arrays and to bytes: file mappings and plain reads, one tensor in memory at most."""

from __future__ import annotations

import math
import mmap
import os
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from latentc.diagnostics import DiagnosticError
from latentc.weights.checksums import Watch
from latentc.weights.expr import Array, Cast, Computed, Concatenate, Expr, Reshape, Slice, Stored, Transpose

BLOCK = 4 << 20
"""Bytes that `blocks` and `stream` hold at a time if the expression allows it."""


def materialise(expr: Expr) -> np.ndarray:
    """The tensor as a numpy array, a read-only view of the mapped file if possible.

    Raises DiagnosticError E0413 if a file is gone or has become shorter, E0404 if the checksum of a tensor in it, which
    latentc's own files hold, does not match.
    """
    match expr:
        case Stored():
            return _mapped(expr)
        case Array(array):
            return array
        case Transpose(inner, perm):
            return materialise(inner).transpose(perm)
        case Reshape(inner, shape):
            return materialise(inner).reshape(shape)
        case Slice(inner, axis, start, stop):
            return materialise(inner)[(slice(None),) * axis + (slice(start, stop),)]
        case Concatenate(parts, axis):
            return np.concatenate([materialise(part) for part in parts], axis)
        case Cast(inner, dtype):
            return materialise(inner).astype(dtype)
        case Computed(parts, compute, dtype):
            return compute([materialise(part) for part in parts]).astype(dtype, copy=False)


def blocks(expr: Expr, limit: int = BLOCK) -> Iterator[np.ndarray]:
    """One-dimensional pieces whose elements, in order, are the tensor's in C order.

    A piece is about `limit` bytes. At most one tensor is held beyond that, and only where a transposed tensor
    is reshaped or parts are joined along an inner axis. Raises like `materialise`.
    """
    match expr:
        case Stored():
            yield from _read(expr, limit)
        case Reshape(inner):
            yield from blocks(inner, limit)
        case Cast(inner, dtype):
            for block in blocks(inner, limit):
                yield block.astype(dtype)
        case Concatenate(parts, axis) if math.prod(expr.shape[:axis]) == 1:
            for part in parts:
                yield from blocks(part, limit)
        case _:
            yield from _rows(materialise(expr), limit)


def stream(expr: Expr, file: BinaryIO) -> int:
    """Write the tensor's bytes in C order; returns how many. Raises like `materialise`, and OSError."""
    written = 0
    for block in blocks(expr):
        written += block.nbytes
        file.write(block.view(np.uint8).data)
    return written


def _mapped(expr: Stored) -> np.ndarray:
    if not expr.nbytes:
        return np.empty(expr.shape, expr.dtype)
    before = expr.offset % mmap.ALLOCATIONGRANULARITY
    try:
        with expr.file.open("rb", buffering=0) as file:
            # Reading mapped memory beyond the end of a file would be a bus error, so check first.
            if os.fstat(file.fileno()).st_size < expr.offset + expr.nbytes:
                raise _changed(expr, "it is shorter than when it was opened")
            # `np.memmap` would resolve the path for every tensor, which takes longer than mapping it.
            pages = mmap.mmap(file.fileno(), before + expr.nbytes, access=mmap.ACCESS_READ, offset=expr.offset - before)
    except OSError as error:
        raise _changed(expr, error.strerror or str(error)) from error
    raw = np.frombuffer(pages, np.uint8, offset=before)
    watch = Watch(expr.file, expr.offset, expr.offset + expr.nbytes)
    if watch.sums:
        watch.read(expr.offset, raw.data)
    array = raw.view(expr.dtype).reshape(expr.shape)
    return array if array.flags.aligned else array.copy()


def _read(expr: Stored, limit: int) -> Iterator[np.ndarray]:
    """Plain reads rather than the mapping: pages of a mapping would count as this process's memory."""
    step = max(1, limit // expr.dtype.itemsize) * expr.dtype.itemsize
    end = expr.offset + expr.nbytes
    watch = Watch(expr.file, expr.offset, end)
    try:
        with expr.file.open("rb", buffering=0) as file:
            for offset in range(expr.offset, end, step):
                wanted = min(step, end - offset)
                piece = os.pread(file.fileno(), wanted, offset)
                if len(piece) != wanted:
                    raise _changed(expr, "it is shorter than when it was opened")
                watch.read(offset, piece)
                yield np.frombuffer(piece, expr.dtype)
    except OSError as error:
        raise _changed(expr, error.strerror or str(error)) from error


def _rows(array: np.ndarray, limit: int) -> Iterator[np.ndarray]:
    if array.flags.c_contiguous or array.ndim == 0 or array.nbytes <= limit:
        flat = np.ascontiguousarray(array).reshape(-1)
        step = max(1, limit // array.dtype.itemsize)
        for low in range(0, flat.size, step):
            yield flat[low : low + step]
        return
    rows = limit // (array.nbytes // array.shape[0])
    if rows == 0:
        for row in array:
            yield from _rows(row, limit)
        return
    for low in range(0, array.shape[0], rows):
        yield np.ascontiguousarray(array[low : low + rows]).reshape(-1)


def _changed(expr: Stored, why: str) -> DiagnosticError:
    return DiagnosticError.of(
        "E0413",
        f"cannot read {expr.nbytes} bytes at {expr.offset} of {expr.file}: {why}",
        help="the file was moved or changed after it was opened: put it back and run again",
    )
