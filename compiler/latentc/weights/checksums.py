"""Checksums that latentc's own safetensors files hold, compared when a tensor's bytes are read anyhow.

Such a file's metadata have `sha256`: {name: digest} as JSON, of the dtype, the shape and the bytes of each tensor
(templates/project/support/storage.py). Files of other programs are taken as they are.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latentc.diagnostics import DiagnosticError
from latentc.weights.expr import DTYPE_OF_TORCH, Stored, dtype_name

_TORCH = {short: name for name, short in DTYPE_OF_TORCH.items()}


@dataclass(frozen=True)
class Checksum:
    """The digest of tensor `name`, whose bytes are [start, stop) of the file; `head` is hashed before them."""

    name: str
    start: int
    stop: int
    head: bytes
    digest: str


_PIECE = 4 << 20  # bytes read at a time

_known: dict[Path, tuple[Checksum, ...]] = {}
_compared: dict[Path, set[Checksum]] = {}


def remember(path: Path, tensors: Mapping[str, Stored], metadata: Mapping[str, Any]) -> None:
    """Keep the checksums of a file that was opened; forget those of an earlier file in its place."""
    _known.pop(path, None)
    _compared.pop(path, None)
    try:
        digests = json.loads(metadata.get("sha256", "null"))
    except (TypeError, ValueError):
        return
    if not isinstance(digests, dict):
        return
    found = []
    for name, tensor in tensors.items():
        kind = _TORCH.get(dtype_name(tensor.dtype))
        if kind is not None and isinstance(digest := digests.get(name), str):
            head = f"torch.{kind} {list(tensor.shape)} ".encode()
            found.append(Checksum(name, tensor.offset, tensor.offset + tensor.nbytes, head, digest))
    _known[path] = tuple(found)


class Watch:
    """Hashes the bytes [start, stop) of a file as they are read in order, and compares the whole tensors in them.

    A tensor is compared once, until the file is opened again.
    """

    def __init__(self, path: Path, start: int, stop: int) -> None:
        self.path = path
        self.sums = [
            (known, hashlib.sha256(known.head))
            for known in _known.get(path, ())
            if start <= known.start and known.stop <= stop and known not in _compared.get(path, ())
        ]

    def read(self, offset: int, piece: bytes | memoryview) -> None:
        """Take the bytes at `offset`. DiagnosticError E0404 if a tensor that ends in them is damaged."""
        stop = offset + len(piece)
        for known, digest in self.sums:
            low, high = max(known.start, offset), min(known.stop, stop)
            if low < high:
                digest.update(piece[low - offset : high - offset])
            if not offset < known.stop <= stop:
                continue
            if digest.hexdigest() != known.digest:
                raise DiagnosticError.of(
                    "E0404",
                    f"{self.path} is damaged: the checksum of {known.name} does not match its values",
                    help="copy the file again, or take another checkpoint",
                )
            _compared.setdefault(self.path, set()).add(known)


def compare(path: Path, ranges: Sequence[tuple[int, int]]) -> None:
    """Read the tensors of a file that overlap one of `ranges` and compare them, if it has checksums.

    Raises DiagnosticError E0404, OSError.
    """
    wanted = [k for k in _known.get(path, ()) if any(k.start < stop and start < k.stop for start, stop in ranges)]
    with path.open("rb") as file:
        for known in wanted:
            watch, offset = Watch(path, known.start, known.stop), known.start
            file.seek(offset)
            while watch.sums and offset < known.stop:
                piece = file.read(min(_PIECE, known.stop - offset))
                watch.read(offset, piece)
                offset += len(piece) or known.stop
