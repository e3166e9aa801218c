"""PyTorch's .pt files: tensors of the zip format (torch ≥ 1.6) are file ranges, read without torch.

The pickle inside is read as data (pickled.py) and cannot run code. The older format interleaves pickles and data; only
that one is read with torch, with weights_only=True. Pickles of modules (pickled_modules.py) are read as data.
"""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from latentc.diagnostics import DiagnosticError
from latentc.weights import pickled
from latentc.weights.expr import DTYPE_OF_TORCH, Array, Expr, Stored, dtype_from_name, transpose
from latentc.weights.npz import damaged, data_range, unread
from latentc.weights.pickled_modules import read_modules
from latentc.weights.read import materialise
from latentc_runtime.npy import DAMAGE

PICKLE_LIMIT = 1 << 26  # bytes; the pickle of a model with a hundred thousand tensors has about 20 MB

_SAVED = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # the first pickle of a file of torch.save before 1.6


def read_torch(path: Path | str) -> Any:
    """The saved object: nested dicts and plain values, with an expression for each tensor.

    Raises DiagnosticError: E0401, E0402 (no such file, unreadable), E0403 (TorchScript), E0407 (refused pickle),
    E0408 (damaged), E0414 (the old format, and torch is not installed).
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            if not zipfile.is_zipfile(file):
                return _read_old(path)
            with zipfile.ZipFile(file) as archive:
                return _read_zip(path, file, archive)
    except pickled.RefusedPickle as error:
        raise _refused(path, f"it names {error}") from error
    except DAMAGE as error:
        raise unread(path, error) from error


def _read_zip(path: Path, file: BinaryIO, archive: zipfile.ZipFile) -> Any:
    entries = {info.filename: info for info in archive.infolist()}
    pickles = [name for name in entries if name.rpartition("/")[2] == "data.pkl"]
    if len(pickles) != 1:
        raise damaged(path, "it holds no data.pkl")
    root = pickles[0].removesuffix("data.pkl")
    if f"{root}constants.pkl" in entries:
        raise DiagnosticError.of(
            "E0403",
            f"{path} is a TorchScript program, not a state dict",
            help="save the state dict: torch.save(torch.jit.load(path).state_dict(), …)",
        )
    for name in (pickles[0], f"{root}byteorder"):
        if name in entries and entries[name].compress_type != zipfile.ZIP_STORED:
            raise damaged(path, f"the entry {name!r} is compressed, which torch.save never does")
    if f"{root}byteorder" in entries and archive.read(f"{root}byteorder") != b"little":
        raise damaged(path, "its numbers are not little-endian")
    if entries[pickles[0]].file_size > PICKLE_LIMIT:
        raise damaged(path, "its pickle is too large for a state dict")
    tree = pickled.load(archive.read(pickles[0]))
    ranges: dict[str, tuple[int, int] | None] = {}

    def placed(tensor: pickled.Tensor) -> Expr:
        name = f"{root}data/{tensor.storage.key}"
        if name not in ranges:
            if name not in entries:
                raise damaged(path, f"the entry {name!r} is missing")
            ranges[name] = data_range(path, file, entries[name])
        place = ranges[name]
        if place is None:
            raise damaged(path, f"the entry {name!r} is compressed, which torch.save never does")
        return _strided(path, tensor, *place)

    return _replaced(tree, placed, {})


def _replaced(tree: Any, placed: Any, done: dict[int, Any]) -> Any:
    """`tree` with an expression for each tensor; lists are dropped, shared and cyclic dicts are visited once."""
    if isinstance(tree, pickled.Tensor):
        return placed(tree)
    if not isinstance(tree, dict):
        return None if isinstance(tree, list | tuple) else tree
    if id(tree) not in done:
        done[id(tree)] = copy = {}
        for key, value in tree.items():
            copy[key] = _replaced(value, placed, done)
    return done[id(tree)]


def _strided(path: Path, tensor: pickled.Tensor, start: int, nbytes: int) -> Expr:
    kind = pickled.STORAGE_DTYPES[tensor.storage.kind]
    dtype = dtype_from_name(DTYPE_OF_TORCH[tensor.dtype] if tensor.dtype else kind)
    size, stride = tensor.size, tensor.stride
    stored_bytes = tensor.storage.numel * dtype_from_name(kind).itemsize
    if stored_bytes > nbytes:
        raise damaged(path, f"storage {tensor.storage.key} has {nbytes} bytes, but should have {stored_bytes}")
    if 0 in size:
        return Stored(path, start, 0, dtype, size)
    extent = 1 + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    offset = start + tensor.offset * dtype.itemsize
    if (tensor.offset + extent) * dtype.itemsize > stored_bytes:
        raise damaged(path, f"a tensor reaches beyond its storage {tensor.storage.key}")
    # If the axes are contiguous in order of decreasing stride, this is a transposed contiguous tensor.
    order = sorted(range(len(size)), key=lambda axis: (size[axis] != 1, -stride[axis]))
    expected = 1
    for axis in reversed(order):
        if size[axis] != 1 and stride[axis] != expected:
            flat = materialise(Stored(path, offset, extent * dtype.itemsize, dtype, (extent,)))
            steps = [step * dtype.itemsize for step in stride]
            return Array(np.lib.stride_tricks.as_strided(flat, size, steps, writeable=False))
        expected *= size[axis]
    shape = tuple(size[axis] for axis in order)
    return transpose(Stored(path, offset, expected * dtype.itemsize, dtype, shape), np.argsort(order).tolist())


def _read_old(path: Path) -> Any:
    with path.open("rb") as file:
        is_saved = file.read(len(_SAVED)) == _SAVED
    try:
        if not is_saved and (found := read_modules(path)) is not None:
            return found
    except ValueError as error:
        raise damaged(path, str(error)) from error
    try:
        import torch
    except ImportError as error:
        raise DiagnosticError.of(
            "E0414",
            f"{path} is in PyTorch's format from before 1.6, which needs torch to read",
            help='pip install "latentc[torch]", or convert the file to safetensors',
        ) from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL (\S+)", str(error))
        raise _refused(path, f"it names {named[1]}" if named else "it is not a plain state dict") from error
    except Exception as error:  # damaged bytes make torch raise exceptions of many types
        raise damaged(path, f"torch cannot read it ({type(error).__name__})") from error

    def array(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: array(item) for key, item in value.items()}
        if not isinstance(value, torch.Tensor):
            return None
        dtype = dtype_from_name(DTYPE_OF_TORCH[str(value.dtype).removeprefix("torch.")])
        raw = value.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
        return Array(raw.view(dtype).reshape(tuple(value.shape)))

    return array(tree)


def _refused(path: Path, why: str) -> DiagnosticError:
    return DiagnosticError.of(
        "E0407",
        f"{path} was refused: {why}",
        notes=("a pickle can run any code; only plain state dicts are read, and nothing in this one was run",),
        help="if you trust its author, load it with torch and save model.state_dict() as safetensors",
    )
