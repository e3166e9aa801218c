"""Conditions from uploaded files (.npy, .npz with `value` and `mask`, or JSON), and noise (.npy).

The size of every array is compared with the condition before its values are read, so that a small compressed file
cannot fill the memory.
"""

from __future__ import annotations

import io
import json
import math
import zipfile
from typing import Any

from latentc_runtime.backends import Array
from latentc_runtime.conditions import described
from latentc_runtime.npy import DAMAGE, array_from_bytes
from latentc_runtime.serve.options import refused
from latentc_runtime.sources import Condition

_WIDEST = 16  # bytes per value: the largest dtype that numpy converts to a condition's dtype


def value_from_bytes(content: bytes, condition: Condition, samples: int) -> Any:
    """The value of a condition, as `Pipeline.sample` takes it, from a file's content; for up to `samples` samples.

    Raises HttpError 400 (E0608), or 413 (E0615) if the array is larger than any that fits.
    """
    try:
        if content.startswith(b"\x93NUMPY"):
            return _npy(content, condition, samples)
        if content.startswith(b"PK"):
            return _npz(content, condition, samples)
        return json.loads(content)
    except DAMAGE as error:
        reason = f"{error}".splitlines()[0][:120] if str(error) else type(error).__name__
        raise refused(
            400,
            "E0608",
            f"the file of the condition `{condition.name}` cannot be read: {reason}",
            f"send a .npy, an .npz with `value` (and `mask`) or JSON; {described(condition)}",
        ) from None


def noise_from_bytes(content: bytes, name: str) -> Array:
    """The array of an .npy file, for the noise input that the part `name` of a form is for. HttpError 400 (E0610)."""
    try:
        return array_from_bytes(content)
    except DAMAGE as error:
        reason = f"{error}".splitlines()[0][:120] if str(error) else type(error).__name__
        raise refused(400, "E0610", f"the file `{name[:60]}` cannot be read: {reason}", "send a .npy file") from None


def _npz(content: bytes, condition: Condition, samples: int) -> Any:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        arrays = {}
        for info in archive.infolist():
            name = info.filename.removesuffix(".npy")
            if name not in ("value", "mask") and len(archive.infolist()) > 1:
                raise ValueError(f"an array is named `{name}`")
            _check_size(info.file_size, condition, samples)
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError(f"`{name}` is compressed in a way that NumPy never uses")
            with archive.open(info) as file:
                # One byte more than the archive's header says proves that the header is wrong.
                data = file.read(info.file_size + 1)
            arrays[name] = _npy(data, condition, samples)
    if len(arrays) == 1:
        return next(iter(arrays.values()))
    return arrays


def _npy(content: bytes, condition: Condition, samples: int) -> Array:
    _check_size(len(content), condition, samples)
    return array_from_bytes(content)


def _check_size(size: int, condition: Condition, samples: int) -> None:
    """HttpError 413 if a file of `size` bytes holds more than the values of `samples` samples."""
    values = max(math.prod(condition.shape), condition.classes or 1)
    if size > (most := values * _WIDEST * samples + 4096):
        raise refused(
            413,
            "E0615",
            f"the file of the condition `{condition.name}` holds {size} bytes, but at most {most} are useful",
            described(condition),
        )
