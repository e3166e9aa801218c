"""Files named by users: read with diagnostics, and written completely or not at all."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from latentc.diagnostics import DiagnosticError
from latentc.weights import Expr, materialise
from latentc.weights.npz import read_npz
from latentc.weights.safetensors import replacing
from latentc_runtime.npy import DAMAGE, array_from_bytes


@contextlib.contextmanager
def new_file(path: Path | str) -> Iterator[BinaryIO]:
    """A file that replaces `path` when the block ends without an error; creates folders. DiagnosticError E0412."""
    path = Path(path)
    make_folder(path.parent)
    with replacing(path) as file:
        yield file


def make_folder(path: Path) -> None:
    """Creates a folder and its parents. DiagnosticError E0412."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        message = f"cannot create the folder {path}: {error.strerror or error}"
        raise DiagnosticError.of("E0412", message, help="choose another place") from error


def write_text(path: Path | str, text: str) -> None:
    """Writes a text file in UTF-8. DiagnosticError E0412."""
    with new_file(path) as file:
        file.write(text.encode())


@dataclass(frozen=True)
class FileArray:
    """An array of an .npz file, which NumPy reads when it converts it; shape and dtype are known before that."""

    content: Expr

    @property
    def shape(self) -> tuple[int, ...]:
        return self.content.shape

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.content.dtype

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """DiagnosticError E0408, E0413."""
        return np.array(materialise(self.content), dtype, copy=copy)


def open_arrays(path: Path | str) -> dict[str, FileArray]:
    """The arrays of an .npz file, of which only the headers are read. DiagnosticError E0401 to E0403, E0408."""
    path = Path(path)
    if not path.exists():
        raise DiagnosticError.of("E0401", f"no such file: {path}")
    if path.is_dir():
        raise DiagnosticError.of("E0402", f"{path} is a folder, not an .npz file")
    with contextlib.suppress(OSError), path.open("rb") as file:
        if not file.read(4).startswith(b"PK"):
            message = f"{path} is not an .npz file"
            raise DiagnosticError.of("E0403", message, help="write one with `numpy.savez(path, x=…, y=…)`")
    return {name: FileArray(expr) for name, expr in read_npz(path).items()}


CONDITION_FILES = (".npy", ".npz", ".txt")
"""How names of files of conditions end."""


def read_condition(path: Path | str, name: str) -> Any:
    """The value of a condition from a file: .npy, or .npz with `value` and `mask`, an array of that name, or only one.

    Arrays of an .npz are `FileArray`s, so that their shapes are compared with the condition before they are read.

    An .npz of only `query` or `class` says what neighbours are searched for. A .txt file holds a text per line.

    DiagnosticError E0401 to E0403, E0408.
    """
    path = Path(path)
    if path.suffix == ".npz":
        arrays = open_arrays(path)
        if "value" in arrays:
            value = arrays["value"]
            return {"value": value, "mask": arrays["mask"]} if "mask" in arrays else value
        if set(arrays) in ({"query"}, {"class"}) and name not in arrays:
            return arrays
        if name in arrays or len(arrays) == 1:
            return arrays.get(name, next(iter(arrays.values())))
        held = ", ".join(arrays) or "nothing"
        mend = f"write one with `numpy.savez(path, {name}=…)`"
        raise DiagnosticError.of("E0403", f"{path} holds {held}: which is `{name}`?", help=mend)
    if not os.path.isfile(path):  # noqa: PTH113 - Path.is_file raises for long texts
        raise DiagnosticError.of("E0401", f"no such file: {path}")
    if path.suffix == ".txt":
        try:
            return path.read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError) as error:
            raise DiagnosticError.of("E0403", f"{path} is not UTF-8 text: {error}") from None
    try:
        return array_from_bytes(path.read_bytes())
    except DAMAGE as error:
        mend = "write one with `numpy.save(path, array)`"
        raise DiagnosticError.of("E0403", f"{path} is not an .npy file: {error}", help=mend) from None


def write_arrays(path: Path | str, arrays: Mapping[str, Any]) -> None:
    """Writes arrays by name as an .npz file. DiagnosticError E0412."""
    with new_file(path) as file:
        np.savez(file, allow_pickle=False, **arrays)


def write_files(files: Mapping[Path, bytes]) -> None:
    """Writes each file, and creates their folders. DiagnosticError E0412."""
    for folder in {path.parent for path in files}:
        if (folder / "manifest.json").exists():
            message = f"{folder} contains a bundle: samples cannot be written there"
            raise DiagnosticError.of("E0412", message, help="choose another folder or a file")
        make_folder(folder)
    for path, content in files.items():
        with new_file(path) as file:
            file.write(content)
