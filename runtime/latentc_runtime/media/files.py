"""Samples to files, by the medium's table {suffix: writer}, default format first."""

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Field = Mapping[str, Any]
"""The declaration of a data field: `medium`, `axes` and, if they apply, `range`, `classes`, `rate`, …"""
Writer = Callable[[Array, Field, int], bytes]
"""(samples [B, ...], field, columns of a grid) -> the bytes of one file."""


def npz(samples: Array, field: Field, columns: int) -> bytes:
    """The unchanged arrays, under the name `samples`."""
    file = io.BytesIO()
    np.savez(file, samples=samples)
    return file.getvalue()


def encoded(samples: Array, field: Field, path: Path, columns: int, formats: Mapping[str, Writer]) -> dict[Path, bytes]:
    """{file: content} of samples written to `path`: one file, or if it has no suffix a folder with a file per sample.

    Raises ValueError if the medium has no such format.
    """
    suffix = path.suffix.lower()
    if not suffix:
        usual, writer = next(iter(formats.items()))
        parts = (samples[i : i + 1] for i in range(len(samples)))
        return {path / f"{i:05d}{usual}": writer(part, field, 1) for i, part in enumerate(parts)}
    if suffix not in formats:
        raise ValueError(f"{field['medium']} samples are written as {', '.join(formats)} or a folder, not {suffix}")
    return {path: formats[suffix](samples, field, min(columns, len(samples)))}


def write(samples: Array, field: Field, path: Path, columns: int, formats: Mapping[str, Writer]) -> None:
    """Writes samples to `path` as `encoded` says."""
    for file, content in encoded(samples, field, path, columns, formats).items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
