"""Where a bundle stores its weights: copied files, one file of derived tensors, or references to files elsewhere.

A weight that is a plain range of a safetensors file is used as it is stored: the file is copied into the bundle
(sharing its blocks if the file system can) or, by reference, stays in place. Everything else is streamed into
`weights/derived.safetensors`, one tensor at a time. Models are written first, and their initialisers filled in last.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto

from latentc.diagnostics import DiagnosticError, nearest
from latentc.export.graph import stored
from latentc.export.recipes import expr_from_recipe, folded_values
from latentc.ir.core import Param
from latentc.ir.inits import DETERMINISTIC, INITS
from latentc.weights import FOUR_BITS, Array, Computed, Expr, Stored, cast, packed, write_safetensors
from latentc.weights.checksums import compare

INLINE_BYTES = 1 << 10
"""Constants up to this size are stored in the ONNX file itself."""

DERIVED = "weights/derived.safetensors"
FOLDED = "weights/folded.safetensors"
"""Values that were folded into weights and that no engine file holds; verification needs them to undo the folding."""
_COPY = 64 << 20  # bytes copied at once


def initial_value(param: Param) -> np.ndarray[Any, Any]:
    """The initial value of a param with a deterministic initialiser, in its dtype."""
    shape = tuple(int(d) for d in param.type.shape)  # type: ignore[arg-type]
    value = INITS[param.init.kind](np.random.default_rng(0), shape, **param.init.args)
    return stored(value, param.type.dtype)


def expression(weights: Mapping[str, Expr], path: str, param: Param) -> Expr:
    """The weight at `path` in the param's dtype: from the file, from its recipe, or a buffer's initial value.

    Raises DiagnosticError E0410 for a weight that is missing or has a different shape.
    """
    if param.recipe is not None:
        prefix = path.removesuffix(param.name)
        made = expr_from_recipe(param.recipe, lambda own: expression(weights, prefix + own.name, own))
        return cast(made, param.type.dtype)
    found = weights.get(path)
    if found is None:
        if param.kind == "buffer" and param.init.kind in DETERMINISTIC:
            return Array(initial_value(param))
        near = nearest(path, weights)
        raise DiagnosticError.of(
            "E0410",
            f"the weights lack {path}, {param.type}",
            help=f"the nearest name there is {near!r}" if near else "is it a file of this model?",
        )
    shape = tuple(int(d) for d in param.type.shape)  # type: ignore[arg-type]
    if tuple(found.shape) != shape:
        raise DiagnosticError.of(
            "E0410",
            f"{path} has shape {list(found.shape)} in the weights, but the model needs {list(shape)}",
            help="the weights belong to another size or option of the spec",
        )
    return cast(found, param.type.dtype)


class FileTensors:
    """The `Tensors` of a bundle: collects initialisers and the sources of their data until `write` makes the files."""

    def __init__(self, weights: Mapping[str, Expr]) -> None:
        self._weights = weights
        self._sources: dict[str, Expr] = {}
        self._pending: list[tuple[TensorProto, str]] = []

    def weight(self, proto: TensorProto, path: str, param: Param) -> None:
        if path not in self._sources:
            made = expression(self._weights, path, param)
            if param.type.dtype in FOUR_BITS:  # safetensors has no such dtypes
                made = Computed((made,), lambda xs: packed(xs[0]), np.dtype(np.uint8), ((param.type.count() + 1) // 2,))
            self._sources[path] = made
        self._put(proto, path)

    def literal(self, proto: TensorProto, array: np.ndarray[Any, Any]) -> None:
        if array.nbytes <= INLINE_BYTES:
            proto.raw_data = packed(array).tobytes()
            return
        kind = f"{array.dtype}{array.shape}".encode()
        key = f"constant.{hashlib.sha256(kind + array.tobytes()).hexdigest()[:16]}"
        self._sources.setdefault(key, Array(array))
        self._put(proto, key)

    def _put(self, proto: TensorProto, key: str) -> None:
        source = self._sources[key]
        if isinstance(source, Array) and source.array.nbytes <= INLINE_BYTES:
            proto.raw_data = np.ascontiguousarray(source.array).tobytes()
        else:
            self._pending.append((proto, key))

    def write_kept(self, folder: Path, params: Mapping[str, Param]) -> None:
        """Writes `FOLDED` under `folder` if undoing the recipes of `params` needs values that no engine file holds."""
        folded = folded_values(params, lambda path, param: expression(self._weights, path, param))
        if folded:
            (folder / "weights").mkdir(exist_ok=True)
            write_safetensors(folder / FOLDED, folded)

    def write(self, folder: Path, by_reference: bool = False) -> dict[str, Path]:
        """Writes the files under `folder`/weights and fills in every initialiser.

        Returns {name in the ONNX files: file} of the files that stay in place. Raises OSError, and the errors of
        reading and writing weights.
        """
        ranges = {key: e for key, e in self._sources.items() if isinstance(e, Stored) and e.nbytes}
        by_file: dict[Path, list[Stored]] = {}
        for r in {id(r): r for r in ranges.values()}.values():
            by_file.setdefault(r.file, []).append(r)
        names: dict[Path, str] = {}
        references: dict[str, Path] = {}
        for file, parts in by_file.items():
            used = sum(r.nbytes for r in parts)
            compare(file, [(r.offset, r.offset + r.nbytes) for r in parts])
            if by_reference:
                names[file] = _free_name(file, names)
                references[names[file]] = file.resolve()
            elif file.suffix == ".safetensors" and 2 * used >= file.stat().st_size:
                # A file that holds mostly other data (an optimiser's state) is not copied as a whole.
                names[file] = _free_name(file, names)
                (folder / "weights").mkdir(exist_ok=True)
                copy_file(file, folder / names[file])
        places = {key: (names[r.file], r.offset, r.nbytes) for key, r in ranges.items() if r.file in names}
        derived = {key: self._sources[key] for _, key in self._pending if key not in places}
        if derived:
            (folder / "weights").mkdir(exist_ok=True)
            spans = write_safetensors(folder / DERIVED, derived)
            places.update({key: (DERIVED, offset, nbytes) for key, (offset, nbytes) in spans.items()})
        for proto, key in self._pending:
            proto.data_location = TensorProto.EXTERNAL
            for field, value in zip(("location", "offset", "length"), places[key], strict=True):
                entry_proto = proto.external_data.add()
                entry_proto.key, entry_proto.value = field, str(value)
        return references


def _free_name(file: Path, taken: Mapping[Path, str]) -> str:
    stem, n = f"weights/{_plain(file.stem)}", 1
    name = f"{stem}{_plain(file.suffix)}"
    while name in taken.values() or name in (DERIVED, FOLDED):
        n += 1
        name = f"{stem}-{n}{_plain(file.suffix)}"
    return name


def _plain(text: str) -> str:
    """`text` with all characters but letters, digits, dots, dashes and underscores replaced by underscores."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "_" for c in text)


def copy_file(source: Path, target: Path) -> None:
    """Copies a file, by the kernel if possible, which shares blocks on file systems that support it.

    A link would not do: engines refuse linked weights, and a bundle must not change with its source. Raises OSError.
    """
    with source.open("rb") as src, target.open("xb") as dst:
        left = os.fstat(src.fileno()).st_size
        with contextlib.suppress(OSError, AttributeError):  # on different file systems, or if the system lacks the call
            while left and (n := os.copy_file_range(src.fileno(), dst.fileno(), min(left, _COPY))):
                left -= n
        src.seek(dst.seek(0, os.SEEK_END))
        while block := src.read(_COPY >> 4):
            dst.write(block)
