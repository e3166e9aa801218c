"""A folder of memory-mapped arrays."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.dataset import Images
from latentc.components.fields import DataPath


class NpyFolder(Images):
    """A folder with one .npy file per field (x.npy [N, …], y.npy [N]), memory-mapped, for large data."""

    kind: Literal["npy_folder"]
    path: DataPath = Field("data/train", description="the folder")
    adds_noise: ClassVar[bool] = True
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "npy_folder", "classes": 4, "shape": [4, 8, 8]}
